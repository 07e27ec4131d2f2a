//! One pass over one store: probe, decide, act. The same for pods and for local processes.
//!
//! A pass changes at most one thing about leadership and returns what it found, from which the status is
//! derived. It is repeated about once a second, and at once when the platform reports a change.

mod handover;
mod happening;
mod pace;
mod reshape;
mod rolling;
mod standing_down;

use std::time::Duration;

use futures::future::join_all;
use quorumkv_api::{
    NodeId,
    client::{CallError, PeerClient},
    peer::{Member, MembersRequest, NodeState, PeerAddress, Refusal},
};
use tokio::time::Instant;

pub use self::{
    happening::Happening,
    standing_down::{Settling, leave_nobody_leading, settle},
};
use crate::{
    decide::{self, ElectionReason, Hold, Leadership, NodeView, PodReport, Presence, Roll, Situation},
    elect::{self, Candidacy, ElectionError},
    record::{Platform, Record, RecordError, Versioned},
    scale::Scale,
    validate::Store,
};

/// How long a node may take to answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(750);

/// One node as the platform knows it, before it is asked.
#[derive(Debug, Clone)]
pub struct KnownNode {
    /// Where it is reached.
    pub address: PeerAddress,
    /// Whether its process can be there at all.
    pub presence: Presence,
    /// Whether it was made from another description than the present one.
    pub outdated: bool,
    /// What the platform says of it besides; none where there is no pod, but a process.
    pub report: Option<PodReport>,
}

/// What one pass remembers for the next. Losing it costs time, never safety.
#[derive(Debug, Default)]
pub struct Memory {
    record: Option<Record>,
    answered: Option<(NodeId, Instant)>,
    silent_probes: u32,
    waiting_since: Option<Instant>,
    failed_elections: u32,
    next_election: Option<Instant>,
    settings_refusal: Option<String>,
    /// Whether every node that runs refused the token in the last pass.
    locked_out: bool,
    /// What a change of the number of nodes waits for, if that does not pass by itself.
    scaling_waits: Option<String>,
    /// Since when this node is wished for as leader.
    wish: Option<(NodeId, Instant)>,
    /// What became of a pass that ended before it could tell.
    untold: Option<Happening>,
    /// How far the replacement of outdated nodes is.
    rolling: rolling::Progress,
    pace: pace::Pace,
}

/// What a pass found and did.
#[derive(Debug, Clone)]
pub struct Pass {
    /// The record at its end.
    pub record: Record,
    /// The nodes.
    pub nodes: Vec<NodeView>,
    /// The state of leadership at its end.
    pub leadership: Leadership,
    /// Why the leader does not take the wanted settings, if it does not.
    pub settings_refusal: Option<String>,
    /// What the platform shall do about outdated nodes.
    pub roll: Roll,
    /// Whether outdated nodes wait for something that does not come by itself, or not soon.
    pub roll_held: bool,
    /// How far the number of nodes is from what the spec wants.
    pub scale: Scale,
    /// What to tell people.
    pub happenings: Vec<Happening>,
}

impl Pass {
    /// The pass as a situation, for the pure decisions and the status.
    #[must_use]
    pub fn situation<'a>(&'a self, store: &'a Store) -> Situation<'a> {
        Situation {
            store,
            record: &self.record,
            nodes: &self.nodes,
            silent_for: Duration::ZERO,
            silent_probes: 0,
            waiting_for: Duration::ZERO,
        }
    }

    /// The nodes that run and do not take the manager's token.
    pub fn refusing(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.iter().filter(|view| view.refuses_token).map(|view| &view.address.node)
    }

    /// Whether no node says what it is, and all that answer refuse the manager's token.
    #[must_use]
    pub fn is_locked_out(&self) -> bool {
        self.refusing().next().is_some() && self.nodes.iter().all(|view| view.state.is_none())
    }
}

/// Why a pass could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The record could not be read or replaced.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Runs one pass. `known` is the record as last seen, perhaps out of date: it is read again when it is not
/// what the last pass left behind, and before anything is changed.
///
/// # Errors
/// See [`PassError`]. A node that does not answer is no error.
pub async fn pass<P: Platform>(
    platform: &P,
    client: &PeerClient,
    store: &Store,
    nodes: Vec<KnownNode>,
    known: Record,
    memory: &mut Memory,
) -> Result<Pass, PassError> {
    let mut pass = Pass {
        record: known,
        nodes: probe(client, nodes).await,
        leadership: Leadership::Suspect,
        settings_refusal: None,
        roll: Roll::Wait(Hold::NoLeader),
        roll_held: false,
        scale: Scale::Done,
        happenings: Vec::new(),
    };
    // A manager that just started, or whose cache lags, must not push members that are no longer recorded.
    if memory.record.as_ref() != Some(&pass.record) {
        pass.record = platform.record().await?.record;
    }
    // Nodes that have joined or left since were not asked, or should not have been.
    if *store.nodes != *store.present(&pass.record) {
        memory.record = None;
        return Err(RecordError::Conflict.into());
    }
    memory.note(&pass, Instant::now());
    let outcome = act(platform, client, store, &mut pass, memory).await;
    memory.record = outcome.is_ok().then(|| pass.record.clone());
    outcome?;
    pass.happenings.extend(memory.untold.take());
    Ok(pass)
}

async fn act<P: Platform>(
    platform: &P,
    client: &PeerClient,
    store: &Store,
    pass: &mut Pass,
    memory: &mut Memory,
) -> Result<(), PassError> {
    if pass.is_locked_out() {
        // Nobody would promise anything either. What leads goes on leading, and is left alone.
        if !std::mem::replace(&mut memory.locked_out, true) {
            tracing::warn!("every node refuses the token");
            pass.happenings.push(Happening::LockedOut { nodes: pass.refusing().count() });
        }
        return Ok(());
    }
    memory.locked_out = false;
    pass.leadership = decide::leadership(&memory.situation(store, pass));
    pass.roll = decide::roll(&memory.situation(store, pass), &pass.leadership);
    rolling::note(&mut memory.rolling, pass, Instant::now());
    if handover::switch_over(platform, client, store, pass, memory).await? {
        return Ok(());
    }
    match (&pass.leadership, &pass.roll) {
        (Leadership::Elect(reason), _) => {
            let reason = *reason;
            elect_leader(platform, client, store, reason, pass, memory).await?;
        }
        (Leadership::Reset, _) => reset(platform, store, pass, memory).await?,
        (Leadership::Active, Roll::HandOver) => {
            elect_leader(platform, client, store, ElectionReason::Renewal, pass, memory).await?;
        }
        (Leadership::Active | Leadership::Settling, _) => {
            record_learners(platform, store, pass).await?;
            if reshape::reshape(platform, client, store, pass, memory).await? {
                return Ok(());
            }
            steer_leader(client, store, pass, memory).await;
        }
        (Leadership::Suspect | Leadership::Short(_), _) => {}
    }
    Ok(())
}

fn reachable(pass: &Pass) -> Vec<PeerAddress> {
    let may_run = |view: &&NodeView| !matches!(view.presence, Presence::Absent | Presence::NotRunning);
    pass.nodes.iter().filter(may_run).map(|view| view.address.clone()).collect()
}

/// Asks every node that can be there what it is.
async fn probe(client: &PeerClient, nodes: Vec<KnownNode>) -> Vec<NodeView> {
    join_all(nodes.into_iter().map(async |KnownNode { address, presence, outdated, report }| {
        let answer = match presence {
            Presence::Absent | Presence::NotRunning => None,
            Presence::Running | Presence::Stopping => Some(client.state(&address.peer_url).await),
        };
        if let Some(Err(error)) = &answer {
            tracing::debug!(node = %address.node, %error, "no state");
        }
        let refuses_token = matches!(
            &answer,
            Some(Err(CallError::Refused { refusal, .. })) if refusal.reason == Refusal::Unauthorized
        );
        // Another node may have got the address of one that is gone.
        let state = answer.and_then(Result::ok).filter(|state| state.node == address.node);
        NodeView { address, presence, state, outdated, refuses_token, report }
    }))
    .await
}

impl Memory {
    /// How long to wait before the next pass: short while something is under way.
    #[must_use]
    pub fn pause_after(&mut self, pass: &Pass, store: &Store) -> Duration {
        self.pace.after(pass, store, Instant::now())
    }

    fn note(&mut self, pass: &Pass, now: Instant) {
        if !pass.record.members.is_empty() || pass.nodes.iter().all(|view| view.state.is_none()) {
            self.waiting_since = None;
        } else {
            self.waiting_since.get_or_insert(now);
        }
        let Some(leader) = &pass.record.leader else {
            self.answered = None;
            self.silent_probes = 0;
            return;
        };
        let answers = pass.nodes.iter().any(|view| view.address.node == *leader && view.state.is_some());
        let known = self.answered.as_ref().is_some_and(|(name, _)| name == leader);
        if answers || !known {
            self.answered = Some((leader.clone(), now));
        }
        self.silent_probes = if answers { 0 } else { self.silent_probes.saturating_add(1) };
    }

    fn situation<'a>(&self, store: &'a Store, pass: &'a Pass) -> Situation<'a> {
        let now = Instant::now();
        Situation {
            silent_for: self.answered.as_ref().map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(*at)),
            silent_probes: self.silent_probes,
            waiting_for: self.waiting_since.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
            ..pass.situation(store)
        }
    }

    fn election_failed(&mut self) {
        let pause = Duration::from_millis(250 << self.failed_elections.min(5));
        self.failed_elections += 1;
        self.next_election = Some(Instant::now() + pause);
    }

    fn election_succeeded(&mut self) {
        self.failed_elections = 0;
        self.next_election = None;
    }
}

/// Reads the record again. If it is not what the decision was made from, the pass takes it over and the
/// decision is left to the next pass.
async fn reread<P: Platform>(platform: &P, pass: &mut Pass) -> Result<Option<Versioned>, RecordError> {
    let live = platform.record().await?;
    if live.record == pass.record {
        return Ok(Some(live));
    }
    pass.record = live.record;
    pass.leadership = Leadership::Suspect;
    Ok(None)
}

async fn elect_leader<P: Platform>(
    platform: &P,
    client: &PeerClient,
    store: &Store,
    reason: ElectionReason,
    pass: &mut Pass,
    memory: &mut Memory,
) -> Result<(), PassError> {
    if memory.next_election.is_some_and(|at| Instant::now() < at) {
        return Ok(());
    }
    let Some(live) = reread(platform, pass).await? else { return Ok(()) };
    let situation = memory.situation(store, pass);
    let epoch = decide::next_epoch(&situation, live.record.epoch);
    let preference = decide::preference(&situation);
    let avoid = match reason {
        ElectionReason::LeaderStopping
        | ElectionReason::Renewal
        | ElectionReason::Switchover
        | ElectionReason::Scaling => live.record.leader.clone(),
        _ => None,
    };
    let asked_for = matches!(reason, ElectionReason::Switchover | ElectionReason::Scaling);
    let wanted = store.switchover_to.as_ref().filter(|_| asked_for);
    let peers: Vec<PeerAddress> = pass.nodes.iter().map(|view| view.address.clone()).collect();
    let reachable = reachable(pass);
    let candidacy = Candidacy {
        peers: &peers,
        reachable: &reachable,
        epoch,
        preference: &preference,
        wanted,
        avoid: avoid.as_ref(),
        settings: decide::wanted_settings(&situation),
    };
    tracing::info!(%epoch, %reason, "electing");
    pass.happenings.push(Happening::Electing { reason, epoch });
    match elect::run(platform, client, &live, &candidacy).await {
        Ok(elected) => {
            memory.election_succeeded();
            pass.happenings.push(Happening::Promoted { leader: elected.state.node.clone(), epoch });
            pass.record = elected.versioned.record;
            for view in &mut pass.nodes {
                if view.address.node == elected.state.node {
                    view.state = Some(elected.state.clone());
                }
            }
            pass.leadership = if elected.state.ready { Leadership::Active } else { Leadership::Settling };
        }
        Err(ElectionError::Record(error)) => return Err(error.into()),
        Err(error) => {
            memory.election_failed();
            tracing::warn!(%epoch, %error, "no leader elected");
            pass.happenings.push(Happening::ElectionFailed { error: error.to_string() });
            pass.record = Record { epoch, leader: None, ..live.record };
            if let ElectionError::Short(shortfall) = error {
                pass.leadership = Leadership::Short(shortfall);
            }
        }
    }
    Ok(())
}

async fn reset<P: Platform>(platform: &P, store: &Store, pass: &mut Pass, memory: &Memory) -> Result<(), PassError> {
    let Some(live) = reread(platform, pass).await? else { return Ok(()) };
    let epoch = decide::next_epoch(&memory.situation(store, pass), live.record.epoch);
    let empty = Record { epoch, ..Record::default() };
    pass.record = platform.replace(&live, empty).await?.record;
    tracing::warn!(%epoch, "every copy was lost, starting again with an empty store");
    pass.happenings.push(Happening::Reset);
    Ok(())
}

/// Records the copies that caught up. The leader hears of it afterwards, and only then counts them.
async fn record_learners<P: Platform>(platform: &P, store: &Store, pass: &mut Pass) -> Result<(), PassError> {
    if decide::membership(&pass.situation(store)).is_none() {
        return Ok(());
    }
    let Some(live) = reread(platform, pass).await? else { return Ok(()) };
    let Some(members) = decide::membership(&pass.situation(store)) else { return Ok(()) };
    let learned: Vec<Member> = members.iter().filter(|member| !live.record.members.contains(member)).cloned().collect();
    let record = Record { members, ..live.record.clone() };
    pass.record = platform.replace(&live, record).await?.record;
    pass.happenings.extend(learned.into_iter().map(|member| Happening::Recorded { node: member.name }));
    Ok(())
}

/// Tells the leader whose copies count, and which settings are wanted.
async fn steer_leader(client: &PeerClient, store: &Store, pass: &mut Pass, memory: &mut Memory) {
    let Some(leader) = pass.situation(store).leader_state().cloned() else { return };
    let peers: Vec<PeerAddress> = pass.nodes.iter().map(|view| view.address.clone()).collect();
    let Some(url) = peers.iter().find(|peer| peer.node == leader.node).map(|peer| peer.peer_url.clone()) else {
        return;
    };
    let request = MembersRequest {
        epoch: pass.record.epoch,
        peers,
        members: pass.record.members.clone(),
        configuration: pass.record.membership.configuration(),
    };
    match client.members(&url, &request).await {
        Ok(state) => replace_state(pass, state),
        Err(error) => tracing::warn!(leader = %leader.node, %error, "the members could not be pushed"),
    }
    let Some(patch) = decide::settings(&pass.situation(store)) else {
        memory.settings_refusal = None;
        return;
    };
    match client.settings(&url, &patch).await {
        Ok(reply) => {
            memory.settings_refusal = None;
            pass.happenings.push(Happening::SettingsApplied { settings: reply.settings });
            // What is in force goes into this pass's status already.
            if let Ok(state) = client.state(&url).await {
                replace_state(pass, state);
            }
        }
        Err(error) => {
            let reason = match error {
                CallError::Refused { refusal, .. } => refusal.error,
                CallError::Unreachable { .. } => error.to_string(),
            };
            if memory.settings_refusal.as_ref() != Some(&reason) {
                tracing::warn!(leader = %leader.node, %reason, "the settings were refused");
                pass.happenings.push(Happening::SettingsRefused { reason: reason.clone() });
            }
            memory.settings_refusal = Some(reason);
        }
    }
    pass.settings_refusal = memory.settings_refusal.clone();
}

fn replace_state(pass: &mut Pass, state: NodeState) {
    if let Some(view) = pass.nodes.iter_mut().find(|view| view.address.node == state.node) {
        view.state = Some(state);
    }
}

#[cfg(test)]
mod tests;
