//! What Prometheus sees, and the server that shows it.
//!
//! Counters move where things happen; gauges are set when somebody looks, from the same state that
//! `GET /status` shows, so the two cannot contradict each other.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, histogram::exponential_buckets},
    registry::{Registry, Unit},
};
use quorumkv_api::lab::Role;
use quorumkv_protocol::WriteOutcome;

use crate::{
    handle::{DriverHandle, Inspection},
    storage::StorageMetrics,
};

type Number = Gauge<u64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the label's values")]
enum Outcome {
    committed,
    quorum_not_reached,
    not_leader,
    not_active,
    leadership_lost,
    stopping,
}

impl From<&WriteOutcome> for Outcome {
    fn from(outcome: &WriteOutcome) -> Self {
        match outcome {
            WriteOutcome::Committed { .. } => Self::committed,
            WriteOutcome::QuorumNotReached { .. } => Self::quorum_not_reached,
            WriteOutcome::NotLeader => Self::not_leader,
            WriteOutcome::NotActive => Self::not_active,
            WriteOutcome::LeadershipLost => Self::leadership_lost,
            WriteOutcome::Stopping => Self::stopping,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FollowerLabel {
    follower: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabel {
    side: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

/// Which way frames go on a replication stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the other side.
    Sent,
    /// From the other side.
    Received,
}

/// Counts frames that go one way.
#[derive(Debug, Clone, Default)]
pub struct StreamBytes {
    on_the_wire: Counter,
    uncompressed: Counter,
}

impl StreamBytes {
    /// Counts a frame with so many bytes, and how many it has where nothing is compressed.
    pub fn add(&self, on_the_wire: usize, uncompressed: usize) {
        self.on_the_wire.inc_by(on_the_wire as u64);
        self.uncompressed.inc_by(uncompressed as u64);
    }

    /// What was counted so far, in the same order.
    #[must_use]
    pub fn get(&self) -> (u64, u64) {
        (self.on_the_wire.get(), self.uncompressed.get())
    }
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    writes: Family<OutcomeLabel, Counter>,
    write_latency: Histogram,
    elections: Counter,
    broken_streams: Family<StreamLabel, Counter>,
    stream_bytes: Family<DirectionLabel, Counter>,
    stream_uncompressed_bytes: Family<DirectionLabel, Counter>,
    snapshots_sent: Counter,
    snapshots_installed: Counter,
    leader: Number,
    ready: Number,
    epoch: Number,
    commit_seq: Number,
    last_seq: Number,
    keys: Number,
    write_quorum: Number,
    follower_lag: Family<FollowerLabel, Number>,
    follower_connected: Family<FollowerLabel, Number>,
    refused_for_room: Counter,
    /// Counted by storage.
    pub storage: StorageMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("quorumkv_node"),
            writes: Family::default(),
            // 100 us to 6.5 s: from an undelayed write on one machine to the default write timeout.
            write_latency: Histogram::new(exponential_buckets(0.0001, 2.0, 17)),
            elections: Counter::default(),
            broken_streams: Family::default(),
            stream_bytes: Family::default(),
            stream_uncompressed_bytes: Family::default(),
            snapshots_sent: Counter::default(),
            snapshots_installed: Counter::default(),
            leader: Number::default(),
            ready: Number::default(),
            epoch: Number::default(),
            commit_seq: Number::default(),
            last_seq: Number::default(),
            keys: Number::default(),
            write_quorum: Number::default(),
            follower_lag: Family::default(),
            follower_connected: Family::default(),
            refused_for_room: Counter::default(),
            storage: StorageMetrics::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("writes", "Client writes by outcome", self.writes.clone());
        let help = "Time from append to answer of acknowledged writes";
        registry.register_with_unit("write_latency", help, Unit::Seconds, self.write_latency.clone());
        registry.register("elections", "Times this node became leader", self.elections.clone());
        let help = "Replication streams that ended with an error, by the side this node was on";
        registry.register("broken_streams", help, self.broken_streams.clone());
        let help = "Frames on replication streams, compressed or not, by direction";
        registry.register_with_unit("stream", help, Unit::Bytes, self.stream_bytes.clone());
        let help = "The same frames before compression";
        registry.register_with_unit("stream_uncompressed", help, Unit::Bytes, self.stream_uncompressed_bytes.clone());
        let help = "Snapshots sent to followers that were behind the retained log";
        registry.register("snapshots_sent", help, self.snapshots_sent.clone());
        registry.register("snapshots_installed", "Snapshots installed", self.snapshots_installed.clone());
        registry.register("leader", "1 while this node leads", self.leader.clone());
        registry.register("ready", "1 while this node is an active leader or caught up", self.ready.clone());
        registry.register("epoch", "Epoch that this node leads or follows", self.epoch.clone());
        registry.register("commit_seq", "Last committed entry", self.commit_seq.clone());
        registry.register("last_seq", "Last entry of the log", self.last_seq.clone());
        registry.register("keys", "Committed keys", self.keys.clone());
        registry.register("write_quorum", "Committed write quorum, 0 while none is known", self.write_quorum.clone());
        registry.register("follower_lag", "Entries a follower is behind, on the leader", self.follower_lag.clone());
        let help = "1 while a follower's stream is up, on the leader";
        registry.register("follower_connected", help, self.follower_connected.clone());
        let help = "Client writes refused because the disk is full";
        registry.register("writes_refused_for_room", help, self.refused_for_room.clone());
        self.storage.register(registry);
    }

    /// Counts one answered write.
    pub fn write_answered(&self, outcome: &WriteOutcome) {
        self.writes.get_or_create(&OutcomeLabel { outcome: outcome.into() }).inc();
    }

    /// Counts one write that storage has no room for.
    pub fn write_refused_for_room(&self) {
        self.refused_for_room.inc();
    }

    /// Adds the latency of an acknowledged write.
    pub fn write_took(&self, latency: Duration) {
        self.write_latency.observe(latency.as_secs_f64());
    }

    /// This node became leader.
    pub fn elected(&self) {
        self.elections.inc();
    }

    /// A stream ended with an error.
    pub fn stream_broke(&self, side: Role) {
        let side = match side {
            Role::Leader => "leader",
            Role::Follower => "follower",
        };
        self.broken_streams.get_or_create(&StreamLabel { side }).inc();
    }

    /// The counters of frames that go this way.
    #[must_use]
    pub fn stream_bytes(&self, direction: Direction) -> StreamBytes {
        let label = DirectionLabel {
            direction: match direction {
                Direction::Sent => "sent",
                Direction::Received => "received",
            },
        };
        StreamBytes {
            on_the_wire: Counter::clone(&self.stream_bytes.get_or_create(&label)),
            uncompressed: Counter::clone(&self.stream_uncompressed_bytes.get_or_create(&label)),
        }
    }

    /// A snapshot is on its way to a follower.
    pub fn snapshot_sent(&self) {
        self.snapshots_sent.inc();
    }

    /// A snapshot took the place of this node's state.
    pub fn snapshot_installed(&self) {
        self.snapshots_installed.inc();
    }

    /// Everything, in the format of OpenMetrics.
    fn render(&self, inspection: &Inspection, keys: usize) -> Result<String, std::fmt::Error> {
        let state = &inspection.state;
        self.leader.set(u64::from(state.role == Role::Leader));
        self.ready.set(u64::from(state.ready));
        self.epoch.set(state.epoch.0);
        self.commit_seq.set(state.commit.0);
        self.last_seq.set(state.last.seq.0);
        self.keys.set(keys as u64);
        self.write_quorum.set(state.settings.map_or(0, |entry| u64::from(entry.settings.write_quorum.0)));
        // A node that leads no more has no followers, and must not go on showing the old ones.
        self.follower_lag.clear();
        self.follower_connected.clear();
        for follower in &state.followers {
            let label = FollowerLabel { follower: follower.node.0.clone() };
            let lag = state.last.seq.0.saturating_sub(follower.match_seq.0);
            self.follower_lag.get_or_create(&label).set(lag);
            self.follower_connected.get_or_create(&label).set(u64::from(follower.connected));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The metrics port: `GET /metrics`.
pub fn router(driver: DriverHandle) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(Arc::new(driver))
}

async fn metrics(State(driver): State<Arc<DriverHandle>>) -> Response {
    let Ok(inspection) = driver.inspect().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping\n").into_response();
    };
    match driver.metrics.render(&inspection, driver.store.len()) {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
