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
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, histogram::exponential_buckets},
    registry::{Registry, Unit},
};
use quorumkv_api::{lab::Role, peer::TlsReport};
use quorumkv_protocol::WriteOutcome;

use self::{connections::Connections, requests::Requests};
use crate::{
    handle::{DriverHandle, Inspection},
    storage::StorageMetrics,
};

pub mod connections;
pub mod requests;

type Number = Gauge<u64, AtomicU64>;
type Seconds = Gauge<f64, AtomicU64>;

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

impl Outcome {
    /// In the order of their declaration.
    const ALL: [Self; 6] = [
        Self::committed,
        Self::quorum_not_reached,
        Self::not_leader,
        Self::not_active,
        Self::leadership_lost,
        Self::stopping,
    ];
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoadLabel {
    outcome: &'static str,
}

const LOADS: [&str; 2] = ["loaded", "refused"];

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

const SIDES: [&str; 2] = ["leader", "follower"];

/// One of each follower, on the leader.
#[derive(Debug, Default)]
struct Followers {
    lag: Family<FollowerLabel, Number>,
    connected: Family<FollowerLabel, Number>,
    counted: Family<FollowerLabel, Number>,
    acknowledgement: Family<FollowerLabel, Seconds>,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Held from the first gauge that is set until all are written, so that two who look at once see all of them.
    rendering: Mutex<()>,
    /// Requests to this node's ports.
    pub requests: Requests,
    /// Connections to this node's ports.
    pub connections: Connections,
    writes: Family<OutcomeLabel, Counter>,
    /// Of `writes`, in the order of [`Outcome::ALL`].
    by_outcome: [Counter; Outcome::ALL.len()],
    write_latency: Histogram,
    quorum_wait: Histogram,
    pending_writes: Number,
    applied_entries: Counter,
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
    delay_min: Seconds,
    delay_max: Seconds,
    write_timeout: Seconds,
    followers: Followers,
    refused_for_room: Counter,
    refused_for_load: Counter,
    certificate_expiration: Seconds,
    certificate_lifetime: Seconds,
    certificate_loads: Family<LoadLabel, Counter>,
    /// Counted by storage.
    pub storage: StorageMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        // Shown from the beginning: of a series that begins at one, nobody sees that it was zero before.
        let writes = Family::default();
        let by_outcome = Outcome::ALL.map(|outcome| writes.get_or_create_owned(&OutcomeLabel { outcome }));
        let mut metrics = Self {
            registry: Registry::with_prefix("quorumkv_node"),
            rendering: Mutex::default(),
            requests: Requests::default(),
            connections: Connections::default(),
            writes,
            by_outcome,
            // 100 us to 6.5 s: from an undelayed write on one machine to the default write timeout.
            write_latency: Histogram::new(exponential_buckets(0.0001, 2.0, 17)),
            quorum_wait: Histogram::new(exponential_buckets(0.0001, 2.0, 17)),
            pending_writes: Number::default(),
            applied_entries: Counter::default(),
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
            delay_min: Seconds::default(),
            delay_max: Seconds::default(),
            write_timeout: Seconds::default(),
            followers: Followers::default(),
            refused_for_room: Counter::default(),
            refused_for_load: Counter::default(),
            certificate_expiration: Seconds::default(),
            certificate_lifetime: Seconds::default(),
            certificate_loads: Family::default(),
            storage: StorageMetrics::default(),
        };
        metrics.register();
        for side in SIDES {
            // As above.
            drop(metrics.broken_streams.get_or_create(&StreamLabel { side }));
        }
        for outcome in LOADS {
            drop(metrics.certificate_loads.get_or_create(&LoadLabel { outcome }));
        }
        for direction in [Direction::Sent, Direction::Received] {
            drop(metrics.stream_bytes(direction));
        }
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        self.requests.register(registry);
        self.connections.register(registry);
        registry.register("writes", "Client writes by outcome", self.writes.clone());
        let help = "Time from append to answer of acknowledged writes, simulated delay included";
        registry.register_with_unit("write_latency", help, Unit::Seconds, self.write_latency.clone());
        let help = "Time from append to commit of batches of entries: storage and quorum, without simulated delay";
        registry.register_with_unit("quorum_wait", help, Unit::Seconds, self.quorum_wait.clone());
        let help = "Writes that are appended and not answered, on the leader";
        registry.register("pending_writes", help, self.pending_writes.clone());
        let help = "Committed entries applied to this node's store, those in snapshots apart";
        registry.register("applied_entries", help, self.applied_entries.clone());
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
        let help = "Shortest simulated round trip, as committed";
        registry.register_with_unit("delay_min", help, Unit::Seconds, self.delay_min.clone());
        let help = "Longest simulated round trip, as committed";
        registry.register_with_unit("delay_max", help, Unit::Seconds, self.delay_max.clone());
        let help = "How long a write waits for its quorum, as committed; 0 while none is known";
        registry.register_with_unit("write_timeout", help, Unit::Seconds, self.write_timeout.clone());
        let Followers { lag, connected, counted, acknowledgement } = &self.followers;
        registry.register("follower_lag", "Entries a follower is behind, on the leader", lag.clone());
        let help = "1 while a follower's stream is up, on the leader";
        registry.register("follower_connected", help, connected.clone());
        let help = "1 while a follower's copy counts towards the quorum, on the leader";
        registry.register("follower_counted", help, counted.clone());
        let help = "Time a follower took to confirm one of the latest writes, simulated delay included, on the leader";
        registry.register_with_unit("follower_acknowledgement", help, Unit::Seconds, acknowledgement.clone());
        let help = "Client writes refused because the disk is full";
        registry.register("writes_refused_for_room", help, self.refused_for_room.clone());
        let help = "Client writes and large bodies refused because as many wait as may";
        registry.register("writes_refused_for_load", help, self.refused_for_load.clone());
        let help = "When the certificate that the peer port shows expires, since 1970; 0 where it speaks no TLS";
        let expiration = self.certificate_expiration.clone();
        registry.register_with_unit("certificate_expiration_timestamp", help, Unit::Seconds, expiration);
        let help = "How long that certificate is valid in all; 0 where it speaks no TLS";
        registry.register_with_unit("certificate_lifetime", help, Unit::Seconds, self.certificate_lifetime.clone());
        let help = "Times changed certificate files were looked at, by whether they were usable";
        registry.register("certificate_loads", help, self.certificate_loads.clone());
        self.storage.register(registry);
    }

    /// Counts one answered write.
    pub fn write_answered(&self, outcome: &WriteOutcome) {
        self.by_outcome[Outcome::from(outcome) as usize].inc();
    }

    /// Counts one write that storage has no room for.
    pub fn write_refused_for_room(&self) {
        self.refused_for_room.inc();
    }

    /// Counts one write, or one request with a large body, that finds too much work before it.
    pub fn write_refused_for_load(&self) {
        self.refused_for_load.inc();
    }

    /// The peer port shows this certificate.
    pub fn certificate_in_force(&self, TlsReport { not_before, not_after, .. }: &TlsReport) {
        self.certificate_expiration.set(not_after.as_duration().as_secs_f64());
        self.certificate_lifetime.set(not_after.duration_since(*not_before).as_secs_f64());
    }

    /// Changed files took effect.
    pub fn certificates_loaded(&self) {
        self.certificate_loads.get_or_create(&LoadLabel { outcome: LOADS[0] }).inc();
    }

    /// Changed files cannot be used.
    pub fn certificates_refused(&self) {
        self.certificate_loads.get_or_create(&LoadLabel { outcome: LOADS[1] }).inc();
    }

    /// Adds the latency of an acknowledged write.
    pub fn write_took(&self, latency: Duration) {
        self.write_latency.observe(latency.as_secs_f64());
    }

    /// A batch of entries is committed, so long after it was appended.
    pub fn quorum_waited(&self, took: Duration) {
        self.quorum_wait.observe(took.as_secs_f64());
    }

    /// Committed entries were applied to the store.
    pub fn applied(&self, entries: u64) {
        self.applied_entries.inc_by(entries);
    }

    /// This node became leader.
    pub fn elected(&self) {
        self.elections.inc();
    }

    /// A stream ended with an error.
    pub fn stream_broke(&self, side: Role) {
        let side = match side {
            Role::Leader => SIDES[0],
            Role::Follower => SIDES[1],
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

    /// Everything, in the text format of OpenMetrics; gauges as this inspection, the writes that wait for an answer and
    /// the number of keys say.
    ///
    /// # Errors
    /// Never in practice: a `String` takes every write.
    pub fn render(
        &self,
        inspection: &Inspection,
        pending_writes: usize,
        keys: usize,
    ) -> Result<String, std::fmt::Error> {
        let _whole = self.rendering.lock();
        let state = &inspection.state;
        self.pending_writes.set(pending_writes as u64);
        self.leader.set(u64::from(state.role == Role::Leader));
        self.ready.set(u64::from(state.ready));
        self.epoch.set(state.epoch.0);
        self.commit_seq.set(state.commit.0);
        self.last_seq.set(state.last.seq.0);
        self.keys.set(keys as u64);
        let settings = state.settings.map(|entry| entry.settings);
        self.write_quorum.set(settings.map_or(0, |settings| u64::from(settings.write_quorum.0)));
        self.delay_min.set(settings.map_or(0.0, |settings| settings.delay.min.as_secs_f64()));
        self.delay_max.set(settings.map_or(0.0, |settings| settings.delay.max.as_secs_f64()));
        self.write_timeout.set(settings.map_or(0.0, |settings| settings.write_timeout.as_secs_f64()));
        self.followers.set(inspection);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Followers {
    fn set(&self, Inspection { state, acknowledgements, .. }: &Inspection) {
        let Self { lag, connected, counted, acknowledgement } = self;
        // A node that leads no more has no followers, and must not go on showing the old ones.
        lag.clear();
        connected.clear();
        counted.clear();
        acknowledgement.clear();
        for follower in &state.followers {
            let label = FollowerLabel { follower: follower.node.0.clone() };
            lag.get_or_create(&label).set(state.last.seq.0.saturating_sub(follower.match_seq.0));
            connected.get_or_create(&label).set(u64::from(follower.connected));
            counted.get_or_create(&label).set(u64::from(follower.counted));
            if let Some((_, took)) = acknowledgements.iter().find(|(node, _)| *node == follower.node) {
                acknowledgement.get_or_create(&label).set(took.as_secs_f64());
            }
        }
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
    let pending_writes = driver.view.borrow().pending_writes;
    match driver.metrics.render(&inspection, pending_writes, driver.store.len()) {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
