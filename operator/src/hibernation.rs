//! Letting a store sleep: nothing of it runs, and its volumes keep what was written. Pure.
//!
//! What was acknowledged lies on the volumes of enough nodes at any time, so stopping all of them loses nothing. But
//! whoever sends a store to sleep may lose a volume before it wakes up: so all nodes shall hold everything before they
//! stop, if that can be had. Nobody is shown as leader any more, so that the Service leads nowhere; once every follower
//! is caught up, all nodes promise an epoch in which nobody leads. From then on nothing is written, and their answers
//! say what each holds. Where a write slipped in between, a leader is elected once more, followers fetch what they lack,
//! and the same is tried again. After [`PATIENCE`] the nodes stop as they are.
//!
//! How far it is stands in the StatefulSet: an operator that takes over in between goes on from there. A store that
//! wakes up is one in which nobody leads: a leader is elected among what is on the volumes.

use std::time::Duration;

use jiff::Timestamp;
use quorumkv_api::{NodeId, Position, peer::FenceReply};

use crate::{
    observe::{self, Observed},
    validate::{Store, ValidCluster},
};

/// How long followers may take to catch up before the nodes stop as they are.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How far the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It shall not sleep.
    Awake,
    /// Its nodes run, and shall stop when all of them hold everything.
    Settling,
    /// They were told to stop.
    Stopping,
    /// None is left.
    Asleep,
}

impl Stage {
    /// Whether no pod shall be there.
    #[must_use]
    pub const fn is_stopped(self) -> bool {
        matches!(self, Self::Stopping | Self::Asleep)
    }
}

/// How far a store is. `told_to_stop`: this operator did so, whatever its caches know of that.
#[must_use]
pub fn stage(cluster: &ValidCluster, observed: &Observed, told_to_stop: bool) -> Stage {
    if !cluster.hibernated {
        return Stage::Awake;
    }
    let Some(set) = &observed.stateful_set else { return Stage::Stopping };
    let stopped = set.spec.as_ref().and_then(|spec| spec.replicas) == Some(0);
    match (stopped, observed.pods.is_empty()) {
        (true, true) => Stage::Asleep,
        (true, false) => Stage::Stopping,
        (false, _) if told_to_stop => Stage::Stopping,
        (false, _) => Stage::Settling,
    }
}

/// What a store waits for whose nodes were told to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The pods that are there.
    pods: Vec<String>,
    /// Those that should have ended by now, and what a person can do.
    pub stuck: Option<String>,
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.pods.as_slice(), &self.stuck) {
            ([], _) => f.write_str("its nodes stop"),
            (pods, None) => write!(f, "its nodes stop; still there: {}", pods.join(", ")),
            (pods, Some(stuck)) => write!(f, "its nodes stop; still there: {}. {stuck}", pods.join(", ")),
        }
    }
}

/// What is waited for while the nodes stop.
#[must_use]
pub fn waiting(observed: &Observed, now: Timestamp) -> Waiting {
    let stuck: Vec<_> = observed.pods.iter().filter(|(_, pod)| observe::is_stuck(pod, now)).collect();
    let named = stuck.iter().map(|(node, pod)| match observe::machine(pod) {
        "" => node.0.clone(),
        machine => format!("{node} (on {machine})"),
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let stuck = (!stuck.is_empty()).then(|| {
        format!(
            "Should have ended by now: {named}. Does the machine answer? If not, make sure that it is off, and delete its Node, or the pod with --force"
        )
    });
    Waiting { pods: observed.pods.keys().map(|node| node.0.clone()).collect(), stuck }
}

/// What the nodes held when they had promised to write nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// End of the longest log.
    last: Position,
    /// What is wrong with the others, each in a few words.
    lacking: Vec<String>,
}

impl Remains {
    /// Whether every node holds everything.
    #[must_use]
    pub fn are_settled(&self) -> bool {
        self.lacking.is_empty()
    }
}

impl std::fmt::Display for Remains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = self.last.seq.0;
        if self.are_settled() {
            return write!(f, "every node holds everything, up to version {end}");
        }
        write!(f, "what was acknowledged is on enough volumes, up to version {end}, but {}", self.lacking.join(", "))
    }
}

/// What is left of a store, from the answers of its nodes.
#[must_use]
pub fn remains(store: &Store, answers: &[FenceReply]) -> Remains {
    let last = answers.iter().map(|answer| answer.last).max().unwrap_or_default();
    let lacks = |node: &NodeId| match answers.iter().find(|answer| answer.node == *node) {
        None => Some(format!("{node} did not answer")),
        Some(answer) if answer.last != last => Some(format!("{node} ends at {}", answer.last.seq.0)),
        Some(_) => None,
    };
    Remains { last, lacking: store.nodes.iter().filter_map(lacks).collect() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorumkv_api::{Epoch, Seq};
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::testing::{Scene, name, valid_cluster};

    fn observed(replicas: Option<i32>, pods: usize) -> Observed {
        let set = json!({"metadata": {"name": "demo"}, "spec": {
            "replicas": replicas, "selector": {}, "serviceName": "", "template": {},
        }});
        let pod = |n| (name(n), Arc::default());
        Observed {
            stateful_set: replicas.map(|_| Arc::new(serde_json::from_value(set).expect("a StatefulSet"))),
            pods: (0..pods).map(pod).collect(),
            ..Observed::default()
        }
    }

    #[rstest]
    #[case::was_never_awake(None, 0, false, Stage::Stopping)]
    #[case::at_work(Some(6), 6, false, Stage::Settling)]
    #[case::at_work_by_an_old_cache(Some(6), 6, true, Stage::Stopping)]
    #[case::pods_are_left(Some(0), 2, false, Stage::Stopping)]
    #[case::sleeps(Some(0), 0, false, Stage::Asleep)]
    fn how_far_it_is_stands_in_the_stateful_set(
        #[case] replicas: Option<i32>,
        #[case] pods: usize,
        #[case] told: bool,
        #[case] expected: Stage,
    ) {
        let cluster = ValidCluster { hibernated: true, ..valid_cluster() };
        assert_eq!(stage(&cluster, &observed(replicas, pods), told), expected);
        assert_eq!(stage(&valid_cluster(), &observed(replicas, pods), told), Stage::Awake);
    }

    #[test]
    fn who_has_not_stopped_is_named_and_after_its_time_what_can_be_done() {
        let mut observed = observed(Some(0), 3);
        let end = |second| Timestamp::from_second(second).expect("a time");
        for (n, machine) in [(1, "worker-1"), (2, "worker-2")] {
            let pod = json!({
                "metadata": {"name": name(n).0, "deletionTimestamp": end(100 * n as i64).to_string()},
                "spec": {"containers": [], "nodeName": machine},
            });
            observed.pods.insert(name(n), Arc::new(serde_json::from_value(pod).expect("a pod")));
        }
        let early = waiting(&observed, end(129));
        assert_eq!(early.to_string(), "its nodes stop; still there: n0, n1, n2");
        assert_eq!(early.stuck, None);
        let late = waiting(&observed, end(130));
        let stuck = late.stuck.clone().expect("one should have ended");
        assert!(stuck.contains("n1 (on worker-1)") && !stuck.contains("n2"), "{stuck}");
        assert!(stuck.contains("make sure that it is off") && late.to_string().ends_with(&stuck), "{late}");
        observed.pods.clear();
        assert_eq!(waiting(&observed, end(130)).to_string(), "its nodes stop");
    }

    fn answers(scene: &Scene, ends: &[u64]) -> Vec<FenceReply> {
        let answer = |(n, seq): (usize, &u64)| {
            let state = scene.nodes[n].state.as_ref().expect("it answers");
            FenceReply {
                node: state.node.clone(),
                storage_id: state.storage_id,
                process_id: state.process_id,
                previous_promise: state.promised,
                last: Position { epoch: Epoch(3), seq: Seq(*seq) },
                commit: state.commit,
                settings: Vec::new(),
                settings_committed: false,
                lease_remaining_ms: 0,
            }
        };
        ends.iter().enumerate().map(answer).collect()
    }

    #[test]
    fn settled_is_where_every_node_holds_the_same() {
        let scene = Scene::steady();
        let settled = remains(&scene.store, &answers(&scene, &[9; 6]));
        assert!(settled.are_settled());
        assert_eq!(settled.to_string(), "every node holds everything, up to version 9");
        let behind = remains(&scene.store, &answers(&scene, &[9, 9, 7, 9, 9]));
        assert!(!behind.are_settled());
        let text = behind.to_string();
        assert!(text.ends_with("up to version 9, but n2 ends at 7, n5 did not answer"), "{text}");
    }
}
