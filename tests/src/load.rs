//! Closed-loop clients that write, and read, without pause, and remember everything.
//!
//! [`Load::start`] begins; [`Running::stop`] or [`Running::finish`] ends it and gives a [`Report`]: every
//! operation with its times and outcome (fit for [`crate::history::check`]) and the latencies of acknowledged
//! writes. Each value is written once: a write whose outcome is unknown is sent again only under a request id
//! ([`Load::request_ids`]), else its client goes on with a new value. A write that was certainly not done
//! (refused, or never sent) may be tried again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::future::join_all;
use hdrhistogram::Histogram;
use quorumkv_api::lab::Role;
use reqwest::StatusCode;
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use crate::{
    client::{Answer, LabClient},
    history::{Action, Moment, Operation, Outcome},
    wait,
};

/// Pause before a client that found no leader looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a client does when its target does not take a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Counts a failure and goes on: for tests in which no write may fail.
    Strict,
    /// Finds the leader (from the answer, else from any node's `/status`) and tries again for so long. Only
    /// then it counts a failure. Unknown outcomes are recorded, and repeated only under request ids.
    Follow {
        /// How long one write is tried.
        patience: Duration,
    },
}

/// When the clients stop by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// After so long.
    Time(Duration),
    /// After so many operations, all clients together.
    Operations(u64),
    /// Not before they are told to.
    Endless,
}

type Translation = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Where to write: the nodes' client URLs, and which of them is thought to lead.
#[derive(Clone)]
pub struct Target {
    nodes: Arc<Vec<String>>,
    leader: watch::Sender<String>,
    translation: Option<Translation>,
    token: Option<String>,
}

impl Target {
    /// The nodes of a store; clients begin with `leader`.
    #[must_use]
    pub fn new(leader: impl Into<String>, nodes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            nodes: Arc::new(nodes.into_iter().map(Into::into).collect()),
            leader: watch::Sender::new(leader.into()),
            translation: None,
            token: None,
        }
    }

    /// What clients present, where the nodes ask for a token.
    #[must_use]
    pub fn presenting(self, token: Option<String>) -> Self {
        Self { token, ..self }
    }

    /// Where nodes are reached under other URLs than they advertise (through forwarded ports): `translate`
    /// turns an advertised URL into one that works here. Without it, advertised URLs are used as they are.
    #[must_use]
    pub fn translated(mut self, translate: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.translation = Some(Arc::new(translate));
        self
    }

    /// The node that clients write to now.
    #[must_use]
    pub fn leader(&self) -> String {
        self.leader.borrow().clone()
    }

    /// Sends clients elsewhere from their next operation on.
    pub fn set_leader(&self, url: impl Into<String>) {
        self.leader.send_replace(url.into());
    }

    fn translate(&self, advertised: &str) -> Option<String> {
        match &self.translation {
            Some(translate) => translate(advertised),
            None => Some(advertised.to_owned()),
        }
    }

    /// Moves to `to`, unless another client has moved away from `from` meanwhile.
    fn move_from(&self, from: &str, to: String) {
        self.leader.send_if_modified(|leader| {
            let stale = leader == from && *leader != to;
            if stale {
                *leader = to;
            }
            stale
        });
    }

    /// Asks every node who it is and moves to the active leader of the highest epoch.
    async fn look_for_leader(&self, client: &LabClient, from: &str) {
        let answers = join_all(self.nodes.iter().map(|url| async move { (url, client.status(url).await) })).await;
        let leaders = answers.into_iter().filter_map(|(url, answer)| {
            let status = answer.ok().filter(|status| status.role == Role::Leader && status.ready)?;
            Some((status.epoch, url.clone()))
        });
        if let Some((_, url)) = leaders.max() {
            self.move_from(from, url);
        }
    }
}

/// What the clients are to do. `Load::new(target)` is one client on one key, writing endlessly, strictly.
#[derive(Clone)]
pub struct Load {
    target: Target,
    clients: usize,
    keys: usize,
    key_prefix: String,
    reads_percent: u32,
    value_bytes: usize,
    limit: Limit,
    policy: Policy,
    timeout: Duration,
    pause: Duration,
    request_ids: bool,
}

impl Load {
    /// One client that writes one key of `target` endlessly and counts everything but 200 as a failure.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            clients: 1,
            keys: 1,
            key_prefix: "load".to_owned(),
            reads_percent: 0,
            value_bytes: 0,
            limit: Limit::Endless,
            policy: Policy::Strict,
            timeout: Duration::from_secs(10),
            pause: Duration::ZERO,
            request_ids: false,
        }
    }

    /// So many clients, each with one operation under way.
    #[must_use]
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// So many keys, `prefix-0` and on, chosen at random for each operation.
    #[must_use]
    pub fn keys(mut self, prefix: impl Into<String>, keys: usize) -> Self {
        (self.key_prefix, self.keys) = (prefix.into(), keys);
        self
    }

    /// So many of a hundred operations are linearizable reads from the node that is written to.
    #[must_use]
    pub fn reads_percent(mut self, percent: u32) -> Self {
        self.reads_percent = percent;
        self
    }

    /// Values of at least so many bytes.
    #[must_use]
    pub fn value_bytes(mut self, bytes: usize) -> Self {
        self.value_bytes = bytes;
        self
    }

    /// When to stop.
    #[must_use]
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limit = limit;
        self
    }

    /// What to do when a write is not taken.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How long to wait for an answer before the outcome counts as unknown.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long each client rests between two operations: for stores that share a machine with many others.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Every write carries a request id: with [`Policy::Follow`], one whose outcome is unknown is repeated.
    #[must_use]
    pub fn request_ids(mut self) -> Self {
        self.request_ids = true;
        self
    }

    /// Starts the clients.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn start(self) -> anyhow::Result<Running> {
        let client = LabClient::presenting(self.timeout, self.target.token.as_deref())?;
        let shared = Arc::new(Shared {
            run: rand::random(),
            began: Instant::now(),
            stop: AtomicBool::new(false),
            started: AtomicU64::new(0),
            acked: watch::Sender::new(0),
            failed: AtomicU64::new(0),
            client,
            load: self,
        });
        let clients = (0..shared.load.clients)
            .map(|number| {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { shared.run_client(number).await })
            })
            .collect();
        Ok(Running { shared, clients })
    }

    /// Starts the clients and waits for their end.
    ///
    /// # Errors
    /// As [`Self::start`], or when a client panicked.
    pub async fn run(self) -> anyhow::Result<Report> {
        anyhow::ensure!(self.limit != Limit::Endless, "a load without a limit does not end by itself");
        self.start()?.finish().await
    }
}

struct Shared {
    load: Load,
    client: LabClient,
    /// Part of every value, so that two loads on one store never write the same.
    run: u32,
    began: Instant,
    stop: AtomicBool,
    started: AtomicU64,
    acked: watch::Sender<u64>,
    failed: AtomicU64,
}

impl Shared {
    fn may_start_another(&self) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            return false;
        }
        match self.load.limit {
            Limit::Time(time) => self.began.elapsed() < time,
            Limit::Operations(count) => self.started.fetch_add(1, Ordering::Relaxed) < count,
            Limit::Endless => true,
        }
    }

    async fn run_client(&self, number: usize) -> Vec<Operation> {
        let mut history = Vec::new();
        let mut writes = 0_u64;
        while self.may_start_another() {
            if !self.load.pause.is_zero() {
                sleep(self.load.pause).await;
            }
            let key = format!("{}-{}", self.load.key_prefix, rand::random_range(0..self.load.keys.max(1)));
            if rand::random_range(0..100) < self.load.reads_percent {
                history.extend(self.read(number, key).await);
                continue;
            }
            writes += 1;
            let name = format!("{:08x}-{number}-{writes}", self.run);
            let width = self.load.value_bytes;
            let operation = self.write(number, key, format!("{name:.<width$}"), &name).await;
            if operation.is_acked_write() {
                self.acked.send_modify(|acked| *acked += 1);
            } else {
                self.failed.fetch_add(1, Ordering::Relaxed);
                // A node that refuses does so at once; a loop without pause would only fill memory.
                sleep(LOOK_AGAIN).await;
            }
            history.push(operation);
        }
        history
    }

    async fn write(&self, client: usize, key: String, value: String, id: &str) -> Operation {
        let first_try = Instant::now();
        // Of the first try that may have had an effect: with those after it, it is one operation.
        let mut may_be_done_since = None;
        loop {
            let url = self.load.target.leader();
            let invoked = Moment::now();
            let answer = match self.load.request_ids {
                true => self.client.set_with_id(&url, &key, &value, id).await,
                false => self.client.set(&url, &key, &value).await,
            };
            let returned = Moment::now();
            let mut outcome = outcome_of(&answer);
            let patience = match self.load.policy {
                Policy::Strict => Duration::ZERO,
                Policy::Follow { patience } => patience,
            };
            let again = match &outcome {
                Outcome::Acked { .. } => false,
                Outcome::Refused { .. } => true,
                Outcome::Unknown { .. } => self.load.request_ids,
            };
            if matches!(outcome, Outcome::Unknown { .. }) {
                may_be_done_since.get_or_insert(invoked);
            }
            if self.load.policy != Policy::Strict && !matches!(outcome, Outcome::Acked { .. }) {
                self.find_leader(&url, &answer).await;
            }
            let stopped = self.stop.load(Ordering::Relaxed);
            if !again || stopped || first_try.elapsed() >= patience {
                let invoked = may_be_done_since.unwrap_or(invoked);
                if let (Some(_), Outcome::Refused { reason }) = (may_be_done_since, &outcome) {
                    outcome = Outcome::Unknown { reason: format!("{reason}, after an unknown outcome") };
                }
                return Operation { client, key, action: Action::Write { value, outcome }, invoked, returned };
            }
        }
    }

    /// `None` when there was no answer that counts: a failed read says nothing about the content.
    async fn read(&self, client: usize, key: String) -> Option<Operation> {
        let url = self.load.target.leader();
        let invoked = Moment::now();
        let answer = self.client.get(&url, &key, "?consistency=linearizable").await;
        let returned = Moment::now();
        let (value, version) = match &answer {
            Ok(answer) if answer.status == StatusCode::OK => {
                let value =
                    answer.body["value"].as_str().map_or_else(|| answer.body["value"].to_string(), str::to_owned);
                (Some(value), answer.body["version"].as_u64())
            }
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => (None, None),
            _ => {
                if self.load.policy != Policy::Strict {
                    self.find_leader(&url, &answer).await;
                }
                sleep(LOOK_AGAIN).await;
                return None;
            }
        };
        Some(Operation { client, key, action: Action::Read { value, version }, invoked, returned })
    }

    async fn find_leader(&self, from: &str, answer: &reqwest::Result<Answer>) {
        let named = answer.as_ref().ok().and_then(|answer| answer.body["leader"].as_str());
        match named.and_then(|advertised| self.load.target.translate(advertised)) {
            Some(url) if url != from => self.load.target.move_from(from, url),
            _ => {
                self.load.target.look_for_leader(&self.client, from).await;
                sleep(LOOK_AGAIN).await;
            }
        }
    }
}

/// What an answer to `POST /set`, or the lack of one, says about the write.
fn outcome_of(answer: &reqwest::Result<Answer>) -> Outcome {
    match answer {
        Ok(answer) if answer.status == StatusCode::OK => {
            let version = answer.body["version"].as_u64();
            let replicas = answer.body["replicas"].as_u64().and_then(|count| usize::try_from(count).ok());
            match (version, replicas) {
                (Some(version), Some(replicas)) => Outcome::Acked { version, replicas },
                _ => Outcome::Unknown { reason: format!("200 without version or replicas: {}", answer.body) },
            }
        }
        Ok(answer) => {
            let reason = format!("{} {}", answer.status.as_u16(), answer.body);
            // 5xx may come after the write was appended; what is wrong with the request is found before.
            if answer.status.is_client_error() { Outcome::Refused { reason } } else { Outcome::Unknown { reason } }
        }
        Err(error) => {
            let reason = wait::with_causes(error);
            if error.is_connect() { Outcome::Refused { reason } } else { Outcome::Unknown { reason } }
        }
    }
}

/// Clients at work. Dropped without being stopped, they are aborted.
pub struct Running {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
}

impl Running {
    /// Acknowledged writes so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        *self.shared.acked.borrow()
    }

    /// Writes so far that were refused or whose outcome is unknown.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// The target, to send the clients elsewhere.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.shared.load.target
    }

    /// Waits until `more` writes have been acknowledged from now on.
    ///
    /// # Errors
    /// When that takes longer than `within`.
    pub async fn acked_more(&self, more: u64, within: Duration) -> anyhow::Result<()> {
        let wanted = self.acked() + more;
        let mut acked = self.shared.acked.subscribe();
        let reached = tokio::time::timeout(within, acked.wait_for(|acked| *acked >= wanted)).await;
        let reached = reached.with_context(|| {
            let (acked, failed) = (self.acked(), self.failed());
            format!(
                "{more} more acknowledged writes: not within {within:?}; {acked} of {wanted} so far, {failed} failed"
            )
        })?;
        reached.context("the load is gone")?;
        Ok(())
    }

    /// Lets every client finish what it has under way, and reports.
    ///
    /// # Errors
    /// When a client panicked.
    pub async fn stop(self) -> anyhow::Result<Report> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish().await
    }

    /// Waits until the limit is reached, and reports.
    ///
    /// # Errors
    /// When a client panicked.
    pub async fn finish(mut self) -> anyhow::Result<Report> {
        let mut operations = Vec::new();
        for client in &mut self.clients {
            operations.extend(client.await.context("a client of the load panicked")?);
        }
        operations.sort_by_key(|operation| operation.invoked);
        Ok(Report { operations, elapsed: self.shared.began.elapsed() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

/// What the clients did.
#[derive(Debug, Clone)]
pub struct Report {
    /// Everything, by time of invocation.
    pub operations: Vec<Operation>,
    /// From the start to the end of the last client.
    pub elapsed: Duration,
}

impl Report {
    /// Acknowledged writes.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.operations.iter().filter(|operation| operation.is_acked_write()).count()
    }

    /// Successful reads.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.operations.iter().filter(|operation| matches!(operation.action, Action::Read { .. })).count()
    }

    /// Writes that were refused or whose outcome is unknown.
    pub fn failed(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter().filter(|operation| operation.is_failed_write())
    }

    /// Acknowledged writes a second.
    #[must_use]
    pub fn writes_per_second(&self) -> f64 {
        self.acked() as f64 / self.elapsed.as_secs_f64()
    }

    /// Latencies of the acknowledged writes.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.latencies_between(Moment::BEGINNING, Moment::END)
    }

    /// Latencies of the acknowledged writes that were invoked at `from` or later and answered before `to`.
    #[must_use]
    pub fn latencies_between(&self, from: Moment, to: Moment) -> Latencies {
        let mut latencies = Latencies::default();
        self.operations
            .iter()
            .filter(|operation| operation.is_acked_write() && operation.invoked >= from && operation.returned < to)
            .for_each(|operation| latencies.record(operation.latency()));
        latencies
    }

    /// The longest time in which no write was acknowledged.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        let mut returned: Vec<Moment> = self
            .operations
            .iter()
            .filter(|operation| operation.is_acked_write())
            .map(|operation| operation.returned)
            .collect();
        returned.sort_unstable();
        returned.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
    }

    /// Refuses a report in which a write failed, or none was made.
    ///
    /// # Errors
    /// Names the failures, by what was answered.
    pub fn expect_no_failure(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.acked() > 0, "no write was acknowledged in {:?}", self.elapsed);
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for operation in self.failed() {
            if let Action::Write { outcome: Outcome::Refused { reason } | Outcome::Unknown { reason }, .. } =
                &operation.action
            {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        anyhow::ensure!(reasons.is_empty(), "writes failed beside {} that did not: {reasons:#?}", self.acked());
        Ok(())
    }
}

/// Latencies of writes, kept in microseconds with three significant digits.
#[derive(Debug, Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { histogram: Histogram::new(3).expect("three digits are allowed") }
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.histogram.record(micros).expect("the histogram resizes itself");
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Arithmetic mean, in milliseconds; zero when there are none.
    #[must_use]
    pub fn mean_ms(&self) -> f64 {
        if self.histogram.is_empty() { 0.0 } else { self.histogram.mean() / 1000.0 }
    }

    /// The latency that `percent` of a hundred writes did not exceed, in milliseconds.
    #[must_use]
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        self.histogram.value_at_percentile(percent) as f64 / 1000.0
    }
}

#[cfg(test)]
mod tests;
