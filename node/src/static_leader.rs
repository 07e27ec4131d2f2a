//! The manager of a store without an operator: the node that was started with `NODE_TYPE=leader`.
//!
//! On every start it fences itself and all FOLLOWERS, hears every one of them, takes over the best log if
//! another node has it, and promotes itself; then it counts followers that come back with another copy once
//! they have caught up. It records nothing anywhere: hearing every node takes the record's place, and nobody
//! competes with it. The set of nodes is what FOLLOWERS says: it changes with a restart only.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use quorumkv_api::{
    Epoch, NodeId, Settings,
    client::{CallError, PeerClient},
    lab::Role,
    peer::{
        Configuration, FenceReply, FenceRequest, FollowerState, Member, MembersRequest, NodeState, PeerAddress,
        PeerError, PromoteRequest, Refusal, SettingsEntry,
    },
};
use quorumkv_protocol::{
    election::{self, Choice, Record, Shortfall},
    membership::Membership,
};
use tokio::time::{Instant, interval, sleep};
use tracing::{debug, info, warn};

use crate::{
    config::StaticLeader,
    failpoint::{Failpoint, reached},
    handle::{DriverHandle, PeerRequest, Stopped},
    recover::{self, RecoverError, RecoverQuery},
    tls::PeerTls,
};

/// Longest wait for a follower's answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for the beginning of a copy.
const COPY_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before those that did not answer are asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often the log says who is missing.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(5);
/// How often followers that caught up are looked for.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Why an attempt to lead failed. All but [`Self::Stopped`] and [`Self::Client`] are tried again.
#[derive(Debug, thiserror::Error)]
pub enum LeadError {
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(reqwest::Error),
    /// This node is stopping.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// Two URLs lead to one process.
    #[error("FOLLOWERS names one process twice or this node itself: {}", names(.0))]
    SameProcess(Vec<NodeId>),
    /// The answers allow no choice.
    #[error(transparent)]
    Shortfall(#[from] Shortfall),
    /// The best copy could not be fetched.
    #[error("the copy of {node} could not be fetched: {source}")]
    Recover {
        /// Whose copy.
        node: NodeId,
        /// What went wrong.
        source: RecoverError,
    },
    /// This node's own core refuses.
    #[error("this node refuses: {0}")]
    Refused(#[from] PeerError),
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| node.0.as_str()).collect::<Vec<_>>().join(", ")
}

/// Leads a store by itself.
pub struct Manager {
    driver: DriverHandle,
    own: PeerAddress,
    followers: Vec<PeerAddress>,
    settings: Settings,
    client: PeerClient,
    /// The same without a limit to how long an answer takes, since a copy may be large.
    copies: PeerClient,
}

impl Manager {
    /// A manager on the node at `own`.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(
        driver: DriverHandle,
        own: PeerAddress,
        config: StaticLeader,
        token: Option<String>,
        tls: Option<&PeerTls>,
    ) -> Result<Self, LeadError> {
        let (client, copies) = match tls {
            Some(tls) => {
                let secured = |timeout| PeerClient::secured(token.clone(), timeout, tls.client().clone());
                (secured(CALL_TIMEOUT), secured(COPY_TIMEOUT))
            }
            None => {
                let http = reqwest::Client::builder().connect_timeout(CALL_TIMEOUT).no_proxy().build();
                let copies = PeerClient::over(http.map_err(LeadError::Client)?, token.clone());
                (PeerClient::new(token, CALL_TIMEOUT).map_err(LeadError::Client)?, copies)
            }
        };
        let StaticLeader { followers, settings } = config;
        Ok(Self { driver, own, followers, settings, client, copies })
    }

    /// Takes leadership and keeps it until the node stops.
    pub async fn run(self) {
        let mut highest = Epoch(0);
        loop {
            let failed = match self.take_leadership(&mut highest).await {
                Ok(epoch) => self.keep_leadership(epoch).await.err(),
                Err(error) => Some(error),
            };
            match failed {
                Some(LeadError::Stopped(_)) => return,
                Some(LeadError::Refused(PeerError { reason: Refusal::Unavailable, .. })) => return,
                Some(error) => warn!(%error, "not leading, trying again"),
                None => warn!("leadership was lost to a higher epoch, taking it again"),
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Fence, hear all, choose, fetch what is missing, promote.
    async fn take_leadership(&self, highest: &mut Epoch) -> Result<Epoch, LeadError> {
        let (epoch, answers) = self.fence_all(highest).await?;
        reached(Failpoint::LeadershipFenced);
        let mut processes = BTreeSet::new();
        let same = answers.iter().filter(|answer| !processes.insert(answer.process_id.0));
        let same: Vec<NodeId> = same.map(|answer| answer.node.clone()).collect();
        if !same.is_empty() {
            return Err(LeadError::SameProcess(same));
        }
        let record = Record { membership: Membership::first(answers.len()), members: Vec::new(), last_leader: None };
        let expected: Vec<NodeId> = answers.iter().map(|answer| answer.node.clone()).collect();
        let choice = election::elect(&record, &expected, &answers, std::slice::from_ref(&self.own.node))?;
        if choice.node != self.own.node {
            self.fetch_copy(epoch, &choice).await?;
        }
        let own = &answers[0];
        let promote = PromoteRequest {
            epoch,
            storage_id: own.storage_id,
            process_id: own.process_id,
            peers: self.peers(),
            members: choice.members,
            lease_wait_ms: u64::try_from(choice.lease_wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX),
            bootstrap: choice.bootstrap.then_some(self.settings),
            configuration: Configuration::default(),
        };
        self.driver.promote(promote).await?;
        reached(Failpoint::LeadershipTaken);
        info!(%epoch, followers = self.followers.len(), last = %choice.last, "leading");
        Ok(epoch)
    }

    fn peers(&self) -> Vec<PeerAddress> {
        std::iter::once(&self.own).chain(&self.followers).cloned().collect()
    }

    /// Makes every node promise one epoch, however often that takes. The own answer comes first.
    async fn fence_all(&self, highest: &mut Epoch) -> Result<(Epoch, Vec<FenceReply>), LeadError> {
        let mut complaint = Instant::now();
        loop {
            let own = self.driver.inspect().await?.state;
            let epoch = election::next_epoch(*highest, [own.promised]);
            *highest = epoch;
            let own_answer = FenceReply { node: self.own.node.clone(), ..self.driver.fence(epoch).await? };
            let mut answers: Vec<Option<FenceReply>> = vec![None; self.followers.len()];
            loop {
                let refused = self.fence_missing(epoch, &mut answers).await;
                if let Some(promised) = refused.into_iter().max() {
                    debug!(%epoch, %promised, "a follower promised a higher epoch");
                    *highest = promised.max(epoch);
                    break;
                }
                let missing: Vec<NodeId> = answers
                    .iter()
                    .zip(&self.followers)
                    .filter(|(answer, _)| answer.is_none())
                    .map(|(_, follower)| follower.node.clone())
                    .collect();
                if missing.is_empty() {
                    let answers = std::iter::once(own_answer).chain(answers.into_iter().flatten());
                    return Ok((epoch, answers.collect()));
                }
                if complaint <= Instant::now() {
                    warn!(missing = names(&missing), "waiting for every follower to answer before leading");
                    complaint = Instant::now() + COMPLAINT_INTERVAL;
                }
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Asks those who have not promised `epoch` yet; what others promised instead.
    async fn fence_missing(&self, epoch: Epoch, answers: &mut [Option<FenceReply>]) -> Vec<Epoch> {
        let request = FenceRequest { epoch };
        let calls = answers.iter_mut().zip(&self.followers).filter(|(answer, _)| answer.is_none()).map(
            async |(answer, follower)| match self.client.fence(&follower.peer_url, &request).await {
                Ok(reply) => {
                    // A follower's own name may be any, also that of another one on the same host.
                    *answer = Some(FenceReply { node: follower.node.clone(), ..reply });
                    None
                }
                Err(CallError::Refused { refusal, .. }) if refusal.promised >= epoch => Some(refusal.promised),
                Err(error) => {
                    debug!(follower = %follower.node, %error, "no promise");
                    None
                }
            },
        );
        join_all(calls).await.into_iter().flatten().collect()
    }

    async fn fetch_copy(&self, epoch: Epoch, choice: &Choice) -> Result<(), LeadError> {
        let node = &choice.node;
        let from = self.followers.iter().find(|follower| follower.node == *node);
        let from = from.expect("another node was chosen, so it is a follower");
        let query = RecoverQuery { epoch, process_id: choice.process_id };
        let fetched = recover::fetch(&self.copies, &from.peer_url, query).await;
        let recover::Copy { meta, snapshot, entries } =
            fetched.map_err(|source| LeadError::Recover { node: node.clone(), source })?;
        reached(Failpoint::CopyFetched);
        let (keys, after) = (snapshot.len(), entries.len());
        self.driver.request(PeerRequest::Restore { meta, snapshot, entries }).await?;
        reached(Failpoint::CopyRestored);
        info!(from = %node, keys, entries = after, "took over the most complete copy");
        Ok(())
    }

    /// Applies the configured settings once, and counts copies that caught up, for as long as this node leads.
    async fn keep_leadership(&self, epoch: Epoch) -> Result<(), LeadError> {
        let mut ticks = interval(WATCH_INTERVAL);
        let mut settings_due = true;
        loop {
            ticks.tick().await;
            let state = self.driver.inspect().await?.state;
            if state.role != Role::Leader || state.epoch != epoch {
                return Ok(());
            }
            if let Some(members) = self.members_to_count(&state) {
                let counted = names(&members.iter().map(|member| member.name.clone()).collect::<Vec<_>>());
                let configuration = Configuration::default();
                self.driver.members(MembersRequest { epoch, peers: self.peers(), members, configuration }).await?;
                info!(counted, "copies that count changed");
            }
            if settings_due && state.ready {
                settings_due = !self.apply_settings(&state).await?;
            }
        }
    }

    /// The copies that should count, if others do now: those that count, unless the follower presents another
    /// copy, which counts once it has caught up.
    fn members_to_count(&self, state: &NodeState) -> Option<Vec<Member>> {
        let newly = |follower: &FollowerState| follower.caught_up && follower.connected && !follower.counted;
        if !state.followers.iter().any(newly) {
            return None;
        }
        let own = Member { name: state.node.clone(), storage_id: state.storage_id };
        let counted = state.followers.iter().filter(|follower| follower.counted || newly(follower));
        let counted = counted
            .filter_map(|follower| Some(Member { name: follower.node.clone(), storage_id: follower.storage_id? }));
        Some(std::iter::once(own).chain(counted).collect())
    }

    /// Whether the configured settings were applied, or need not be: those of this epoch are either the first
    /// ones, or somebody has changed them since, and that wins.
    async fn apply_settings(&self, state: &NodeState) -> Result<bool, LeadError> {
        let done = |entry: SettingsEntry| entry.settings == self.settings || entry.position.epoch == state.epoch;
        if state.settings.is_some_and(done) {
            return Ok(true);
        }
        match self.driver.change_settings(self.settings.into()).await {
            Ok(reply) => {
                let Settings { write_quorum, delay, .. } = reply.settings;
                info!(%write_quorum, %delay, "settings applied");
                Ok(true)
            }
            Err(PeerError { reason: Refusal::NotNow | Refusal::QuorumNotReached, error, .. }) => {
                debug!(error, "settings cannot be applied yet");
                Ok(false)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }
}
