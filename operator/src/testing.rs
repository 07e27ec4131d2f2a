//! Fixtures for the unit tests.

pub(crate) mod api;
pub(crate) mod nodes;

use std::time::Duration;

use quorumkv_api::{
    Epoch, NodeId, Position, ProcessId, Seq, Settings, StorageId,
    lab::Role,
    peer::{ConfigurationState, FollowerState, Member, NodeState, PeerAddress, SettingsEntry},
};
use quorumkv_protocol::membership::Membership;
use serde_json::json;
use uuid::Uuid;

use crate::{
    crd::{DataLossPolicy, KvCluster},
    decide::{Leadership, NodeView, Presence, Roll, Situation},
    manage::Pass,
    record::Record,
    scale::Scale,
    validate::{Store, ValidCluster, validate},
};

/// The cluster `default/demo` with everything by default.
pub(crate) fn cluster() -> KvCluster {
    serde_json::from_value(json!({
        "apiVersion": "quorumkv.io/v1alpha1",
        "kind": "KvCluster",
        "metadata": {"name": "demo", "namespace": "default", "uid": "u1", "generation": 4, "resourceVersion": "10"},
        "spec": {},
    }))
    .expect("a KvCluster")
}

/// The same, validated.
pub(crate) fn valid_cluster() -> ValidCluster {
    validate(&cluster(), "quorumkv-node:test").expect("valid")
}

/// A store and what was found of it, to be bent by a test.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) store: Store,
    pub(crate) record: Record,
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) silent_for: Duration,
    pub(crate) silent_probes: u32,
    pub(crate) waiting_for: Duration,
}

impl Scene {
    /// A pass that found it, and nothing to do.
    pub(crate) fn pass(&self) -> Pass {
        Pass {
            record: self.record.clone(),
            nodes: self.nodes.clone(),
            leadership: Leadership::Active,
            settings_refusal: None,
            roll: Roll::Done,
            roll_held: false,
            scale: Scale::Done,
            happenings: Vec::new(),
        }
    }

    /// Six nodes n0..n5 at rest: n0 leads epoch 3, all others are caught up and counted.
    pub(crate) fn steady() -> Self {
        let store = Store {
            nodes: (0..6).map(name).collect(),
            names: (0..10).map(name).collect(),
            wanted: 6,
            settled: true,
            resting: false,
            settings: Settings::default(),
            data_loss: DataLossPolicy::Halt,
            switchover_to: None,
        };
        let members: Vec<Member> = (0..6).map(|n| Member { name: name(n), storage_id: copy(n) }).collect();
        let record = Record {
            epoch: Epoch(3),
            leader: Some(name(0)),
            last_leader: Some(members[0].clone()),
            members: members.clone(),
            membership: Membership::first(6),
        };
        let nodes = (0..6).map(|n| NodeView {
            refuses_token: false,
            address: address(n),
            presence: Presence::Running,
            state: Some(state(n)),
            outdated: false,
            report: None,
        });
        Self {
            nodes: nodes.collect(),
            store,
            record,
            silent_for: Duration::ZERO,
            silent_probes: 0,
            waiting_for: Duration::ZERO,
        }
    }

    /// The same nodes before anything was recorded or written.
    pub(crate) fn unborn() -> Self {
        let mut scene = Self::steady();
        scene.record = Record::default();
        for n in 0..6 {
            let state = scene.state(n);
            *state = NodeState {
                role: Role::Follower,
                epoch: Epoch(0),
                promised: Epoch(0),
                ready: false,
                last: Position::default(),
                settings: None,
                followers: Vec::new(),
                ..state.clone()
            };
        }
        scene
    }

    pub(crate) fn situation(&self) -> Situation<'_> {
        let Self { store, record, nodes, silent_for, silent_probes, waiting_for } = self;
        Situation {
            store,
            record,
            nodes,
            silent_for: *silent_for,
            silent_probes: *silent_probes,
            waiting_for: *waiting_for,
        }
    }

    pub(crate) fn state(&mut self, n: usize) -> &mut NodeState {
        self.nodes[n].state.as_mut().expect("the node answers")
    }

    /// What the leader sees of a follower.
    pub(crate) fn seen(&mut self, n: usize) -> &mut FollowerState {
        self.state(0).followers.iter_mut().find(|follower| follower.node == name(n)).expect("a follower")
    }

    /// The node's process ended and another one runs, with an empty memory.
    pub(crate) fn reborn(&mut self, n: usize) {
        let state = self.state(n);
        *state = NodeState {
            storage_id: copy(n + 100),
            role: Role::Follower,
            epoch: Epoch(0),
            promised: Epoch(0),
            ready: false,
            last: Position::default(),
            settings: None,
            followers: Vec::new(),
            ..state.clone()
        };
    }

    pub(crate) fn silence(&mut self, n: usize) {
        self.nodes[n].state = None;
    }
}

pub(crate) fn name(n: usize) -> NodeId {
    NodeId(format!("n{n}"))
}

pub(crate) fn copy(n: usize) -> StorageId {
    StorageId(Uuid::from_u128(n as u128 + 1))
}

fn address(n: usize) -> PeerAddress {
    PeerAddress { node: name(n), client_url: format!("http://n{n}:5000"), peer_url: format!("http://n{n}:5100") }
}

fn state(n: usize) -> NodeState {
    let leads = n == 0;
    let follower = |n| FollowerState {
        node: name(n),
        storage_id: Some(copy(n)),
        match_seq: Seq(9),
        connected: true,
        counted: true,
        caught_up: true,
    };
    NodeState {
        node: name(n),
        storage_id: copy(n),
        process_id: ProcessId(Uuid::from_u128(n as u128 + 50)),
        role: if leads { Role::Leader } else { Role::Follower },
        promised: Epoch(3),
        epoch: Epoch(3),
        leader: Some(name(0)),
        ready: true,
        last: Position { epoch: Epoch(3), seq: Seq(9) },
        commit: Seq(9),
        settings: Some(SettingsEntry {
            position: Position { epoch: Epoch(1), seq: Seq(2) },
            settings: Settings::default(),
        }),
        followers: if leads { (1..6).map(follower).collect() } else { Vec::new() },
        configuration: Some(ConfigurationState::default()),
    }
}
