//! What people are told: conditions and applied values, and the one patch that writes them.
//!
//! Pure. A status is patched only when it differs, and nothing in it moves with every write, so that an
//! idle store changes no object.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use quorumkv_api::{NodeId, Settings, peer::NodeChange, settings::format_duration};
use quorumkv_protocol::election::Shortfall;
use serde::Serialize;

use crate::{
    crd::{AppliedDelay, KvClusterStatus},
    decide::{self, Leadership, Presence, Roll, Situation},
    manage::Pass,
    pause,
    reason::Reason,
    record::Record,
    scale::Scale,
    validate::Store,
};

/// Condition of a store that is left alone. It is there only meanwhile.
const PAUSED: &str = "Paused";

/// Reason of conditions while the nodes answer the operator with 401.
const NODES_REFUSE_TOKEN: &str = Reason::NodesRefuseToken.as_str();
/// Condition of a store with volumes: they have the size of the spec.
const VOLUMES_RESIZED: &str = "VolumesResized";

/// All that there are.
pub const CONDITIONS: [&str; 6] = ["Ready", "Progressing", "Degraded", "QuorumAvailable", VOLUMES_RESIZED, PAUSED];

/// Reason of the conditions while a store falls asleep.
pub const HIBERNATING: &str = "Hibernating";
/// The same while it sleeps.
pub const HIBERNATED: &str = "Hibernated";

/// Why it is Ready or is not, as it was last reported.
#[must_use]
pub fn ready_reason(status: Option<&KvClusterStatus>) -> Option<&str> {
    reason_of(status, "Ready")
}

/// Why its volumes have the size of the spec or have not, as it was last reported.
#[must_use]
pub fn volumes_reason(status: Option<&KvClusterStatus>) -> Option<&str> {
    reason_of(status, VOLUMES_RESIZED)
}

/// Whether they have, as it was last reported with one of these reasons.
#[must_use]
pub fn volumes_verdict(status: Option<&KvClusterStatus>, reasons: &[&'static str]) -> Option<Verdict> {
    let known = status?.conditions.iter().find(|condition| condition.type_ == VOLUMES_RESIZED)?;
    let reason = reasons.iter().find(|reason| **reason == known.reason)?;
    Some(Verdict::new(known.status == "True", reason, known.message.clone()))
}

fn reason_of<'a>(status: Option<&'a KvClusterStatus>, kind: &str) -> Option<&'a str> {
    let known = status?.conditions.iter().find(|condition| condition.type_ == kind)?;
    Some(&known.reason)
}

/// One condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it holds.
    pub holds: bool,
    /// Why, for programs.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl Verdict {
    pub(crate) fn new(holds: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds, reason, message: message.into() }
    }
}

/// What a pass means for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The leader accepts writes with the wanted settings.
    pub ready: Verdict,
    /// Something is being changed or recovered.
    pub progressing: Verdict,
    /// Something is missing.
    pub degraded: Verdict,
    /// Enough followers are connected to confirm writes.
    pub quorum_available: Verdict,
    /// The active leader.
    pub leader: Option<NodeId>,
    /// Followers that are connected, counted and caught up.
    pub ready_followers: usize,
    /// All followers.
    pub followers: usize,
    /// The settings the leader committed; none while no leader is active.
    pub applied: Option<Settings>,
}

impl Summary {
    /// Something is wrong that no node tells of.
    pub fn degrade(&mut self, reason: &'static str, message: &str) {
        self.degraded = Verdict::new(true, reason, message);
    }

    /// The same of something beside which all else is worse.
    pub fn degrade_also(&mut self, reason: &'static str, message: &str) {
        if self.degraded.holds {
            self.degraded.message = format!("{}; {message}", self.degraded.message);
        } else {
            self.degrade(reason, message);
        }
    }
}

/// Sums up a pass.
#[must_use]
pub fn summarize(store: &Store, pass: &Pass) -> Summary {
    let situation = pass.situation(store);
    let active = pass.leadership == Leadership::Active;
    let leader = situation.leader_state().filter(|state| active && state.ready);
    let applied = leader.and_then(|state| state.settings).map(|entry| entry.settings);
    let quorum_available = quorum_available(&situation, active, applied);
    let unready = unready_followers(&situation);
    Summary {
        ready: ready(store, pass, applied, &quorum_available, &unready),
        progressing: progressing(store, pass, applied, &unready),
        degraded: degraded(pass, &quorum_available, &unready),
        quorum_available,
        leader: leader.map(|state| state.node.clone()),
        ready_followers: decide::ready_followers(&situation),
        followers: applied_followers(store, &pass.record),
        applied,
    }
}

/// As many as are on record: one that joins is none yet.
fn applied_followers(store: &Store, record: &Record) -> usize {
    match record.membership.nodes {
        0 => store.followers(),
        nodes => nodes - 1,
    }
}

fn quorum_available(situation: &Situation<'_>, active: bool, applied: Option<Settings>) -> Verdict {
    let Some((leader, settings)) = situation.leader_state().filter(|_| active).zip(applied) else {
        return Verdict::new(false, "NoLeader", "No leader is active, so no write can be confirmed");
    };
    let connected = leader.followers.iter().filter(|follower| follower.connected && follower.counted).count();
    let needed = usize::from(settings.write_quorum.0);
    let followers = applied_followers(situation.store, situation.record);
    let message = format!("{connected} of {followers} followers can confirm writes, {needed} are needed");
    if connected >= needed {
        // The number of connected followers is left to readyFollowers: this message shall not change with it.
        return Verdict::new(true, "EnoughFollowers", format!("Enough followers can confirm writes, {needed} needed"));
    }
    Verdict::new(false, "TooFewFollowers", message)
}

/// Followers that are not yet what they should be, each with what it lacks. One that joins or leaves is not missed.
fn unready_followers(situation: &Situation<'_>) -> Vec<String> {
    let Some(leader) = situation.leader_state() else { return Vec::new() };
    let trouble = |name: &NodeId| situation.node(name)?.trouble();
    let lacks = |name: &NodeId| {
        let view = situation.node(name);
        match view.map_or(Presence::Absent, |view| view.presence) {
            Presence::Absent => return Some("is absent"),
            Presence::NotRunning => return Some("is not running"),
            Presence::Stopping => return Some("is stopping"),
            Presence::Running => {}
        }
        let seen = leader.followers.iter().find(|follower| follower.node == *name);
        match seen {
            Some(follower) if follower.connected && follower.counted && follower.caught_up => None,
            Some(follower) if follower.connected && follower.caught_up => Some("is about to be counted"),
            Some(follower) if follower.connected => Some("is catching up"),
            _ if view.is_some_and(|view| view.refuses_token) => Some("refuses the operator's token"),
            _ if view.is_some_and(|view| view.state.is_none()) => Some("does not answer"),
            _ => Some("is not connected to the leader"),
        }
    };
    let change = situation.record.membership.change.as_ref();
    let changes = |name: &NodeId| change.is_some_and(|change| change.node() == name);
    let followers = situation.store.nodes.iter().filter(|name| **name != leader.node && !changes(name));
    let named = |name: &NodeId| {
        let what = lacks(name)?;
        Some(trouble(name).map_or_else(|| format!("{name} {what}"), |trouble| format!("{name} {what} ({trouble})")))
    };
    followers.filter_map(named).collect()
}

/// What is missing; and where nothing more will come by waiting, what a person can do.
fn missing(pass: &Pass, shortfall: &Shortfall) -> String {
    let all_answer = pass.nodes.iter().all(|view| view.state.is_some());
    match shortfall {
        Shortfall::Recovery { counted: 0, .. } if all_answer => format!(
            "{shortfall}. Every node answers and none has its copy any more: dataLossPolicy Reset starts again, empty"
        ),
        _ => shortfall.to_string(),
    }
}

/// That every node which answers refuses the token, which is not the silence that it would look like.
fn locked_out(pass: &Pass) -> Option<String> {
    let names = pass.refusing().map(|node| node.0.as_str()).collect::<Vec<_>>().join(", ");
    pass.is_locked_out().then(|| {
        format!(
            "Refused with 401 by {names}: the nodes started with another token than the Secret holds now. Put the old \
             one back into it; docs/events.md says what else can be done"
        )
    })
}

fn ready(store: &Store, pass: &Pass, applied: Option<Settings>, quorum: &Verdict, unready: &[String]) -> Verdict {
    if let Some(message) = locked_out(pass) {
        return Verdict::new(false, NODES_REFUSE_TOKEN, message);
    }
    match &pass.leadership {
        Leadership::Short(shortfall) => return Verdict::new(false, "TooFewMembers", missing(pass, shortfall)),
        Leadership::Elect(reason) => {
            return Verdict::new(false, "Electing", format!("A leader is being elected: {reason}"));
        }
        Leadership::Settling => {
            return Verdict::new(false, "LeaderSettling", "The new leader waits for its first entry to be committed");
        }
        Leadership::Suspect => return Verdict::new(false, "LeaderSilent", "The leader does not answer"),
        Leadership::Reset => {
            return Verdict::new(false, "Resetting", "Every copy was lost; the store starts again, empty");
        }
        Leadership::Active => {}
    }
    if !quorum.holds {
        return Verdict::new(false, "QuorumUnavailable", quorum.message.clone());
    }
    if applied != Some(store.settings) {
        return Verdict::new(false, "SettingsPending", pending(store, pass));
    }
    if unready.is_empty() {
        return Verdict::new(true, "AllFollowersReady", "The leader accepts writes and every follower is caught up");
    }
    Verdict::new(true, "SomeFollowersNotReady", format!("The leader accepts writes; {}", unready.join(", ")))
}

fn pending(store: &Store, pass: &Pass) -> String {
    let quorum = store.settings.write_quorum;
    match &pass.settings_refusal {
        Some(reason) => format!("The leader does not take the new settings yet: {reason}"),
        None if decide::wanted_settings(&pass.situation(store)).write_quorum != quorum => {
            format!("writeQuorum {quorum} waits for that many followers")
        }
        None => "The new settings are not committed yet".to_owned(),
    }
}

/// How far the number of followers is from what the spec wants, and what is done about it.
fn scaling(store: &Store, pass: &Pass) -> String {
    let (followers, wanted) = (applied_followers(store, &pass.record), store.wanted.saturating_sub(1));
    let step = match &pass.scale {
        Scale::Begin(NodeChange::Joining(node)) | Scale::UnderWay(NodeChange::Joining(node)) => format!("{node} joins"),
        Scale::Begin(NodeChange::Leaving(node)) | Scale::UnderWay(NodeChange::Leaving(node)) => {
            format!("{node} leaves")
        }
        Scale::Finish { change: NodeChange::Joining(node), .. } => format!("{node} has joined"),
        Scale::Finish { change: NodeChange::Leaving(node), .. } => format!("{node} has left"),
        Scale::GiveUp(change) => format!("{} stays as it was", change.node()),
        Scale::HandOver(node) => format!("{node} takes over from a leader that is to leave"),
        Scale::Wait(hindrance) => format!("waiting: {hindrance}"),
        Scale::Done => "done".to_owned(),
    };
    format!("{followers} of {wanted} followers; {step}")
}

/// Whether the number of nodes changes once the outdated ones are replaced.
fn waits_for_roll(pass: &Pass) -> bool {
    pass.roll != Roll::Done && matches!(pass.scale, Scale::Wait(_))
}

fn progressing(store: &Store, pass: &Pass, applied: Option<Settings>, unready: &[String]) -> Verdict {
    match &pass.leadership {
        _ if pass.is_locked_out() => Verdict::new(false, NODES_REFUSE_TOKEN, "No node can be asked anything"),
        Leadership::Short(_) => Verdict::new(false, "Waiting", "Waiting for missing nodes"),
        Leadership::Elect(_) | Leadership::Reset | Leadership::Suspect => {
            Verdict::new(true, "Electing", "A leader is being elected")
        }
        Leadership::Settling => Verdict::new(true, "LeaderSettling", "A new leader takes over"),
        Leadership::Active if pass.scale != Scale::Done && !waits_for_roll(pass) => {
            Verdict::new(true, "Scaling", scaling(store, pass))
        }
        Leadership::Active if applied != Some(store.settings) => {
            Verdict::new(true, "SettingsPending", pending(store, pass))
        }
        Leadership::Active if pass.roll != Roll::Done => {
            let outdated = pass.nodes.iter().filter(|view| view.outdated).map(|view| view.address.node.0.as_str());
            let names = outdated.collect::<Vec<_>>().join(", ");
            match &pass.roll {
                Roll::Wait(hold) if pass.roll_held => {
                    Verdict::new(false, "RollHeld", format!("Nodes still to be replaced: {names}; {hold}"))
                }
                _ => Verdict::new(true, "RollingNodes", format!("Nodes still to be replaced: {names}")),
            }
        }
        Leadership::Active if !unready.is_empty() => Verdict::new(true, "FollowersJoining", unready.join(", ")),
        Leadership::Active => Verdict::new(false, "Stable", "Everything is as the spec says"),
    }
}

fn degraded(pass: &Pass, quorum: &Verdict, unready: &[String]) -> Verdict {
    if let Some(message) = locked_out(pass) {
        return Verdict::new(true, NODES_REFUSE_TOKEN, message);
    }
    match &pass.leadership {
        Leadership::Short(shortfall) => Verdict::new(true, "TooFewMembers", missing(pass, shortfall)),
        Leadership::Active if !quorum.holds => Verdict::new(true, "TooFewFollowers", quorum.message.clone()),
        Leadership::Active if unready.is_empty() => Verdict::new(false, "AllNodesHealthy", "Every node does its part"),
        Leadership::Active => Verdict::new(true, "FollowersNotReady", unready.join(", ")),
        _ => Verdict::new(true, "NoLeader", "No leader is active"),
    }
}

/// The part of the status that is derived. The record beside it is written by compare-and-swap only.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DerivedStatus {
    observed_generation: Option<i64>,
    followers: Option<i32>,
    ready_followers: Option<i32>,
    followers_ready: Option<String>,
    write_quorum: Option<i32>,
    delay: Option<AppliedDelay>,
    delay_range: Option<String>,
    write_timeout: Option<String>,
    selector: Option<String>,
    volume_size: Option<String>,
    conditions: Vec<Condition>,
}

impl DerivedStatus {
    fn of(status: &KvClusterStatus) -> Self {
        let KvClusterStatus {
            observed_generation,
            epoch: _,
            leader: _,
            last_leader: _,
            members: _,
            configuration: _,
            followers,
            ready_followers,
            followers_ready,
            write_quorum,
            delay,
            delay_range,
            write_timeout,
            selector,
            volume_size,
            conditions,
        } = status.clone();
        Self {
            observed_generation,
            followers,
            ready_followers,
            followers_ready,
            write_quorum,
            delay,
            delay_range,
            write_timeout,
            selector,
            volume_size,
            conditions,
        }
    }
}

/// What is known of a store's volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeReport {
    /// They have the size of the spec.
    pub resized: Verdict,
    /// Size of the smallest, as its status has it.
    pub smallest: Option<String>,
}

/// The derived status after a pass, or none if it is what stands there already.
#[must_use]
pub fn after_pass(
    current: Option<&KvClusterStatus>,
    generation: Option<i64>,
    selector: String,
    summary: &Summary,
    volumes: Option<&VolumeReport>,
    now: Timestamp,
) -> Option<DerivedStatus> {
    let current = current.map(DerivedStatus::of);
    let count = |n: usize| i32::try_from(n).ok();
    // While no leader is active nothing new is known, and what was committed stays committed.
    let kept = |now: Option<DerivedStatus>| now.or_else(|| current.clone());
    let applied = summary.applied.map(|settings| DerivedStatus {
        write_quorum: Some(i32::from(settings.write_quorum.0)),
        delay: Some(AppliedDelay {
            min: format_duration(settings.delay.min),
            max: format_duration(settings.delay.max),
        }),
        delay_range: Some(settings.delay.to_string()),
        write_timeout: Some(format_duration(settings.write_timeout)),
        ..DerivedStatus::empty()
    });
    let applied = kept(applied).unwrap_or_else(DerivedStatus::empty);
    let verdicts = [
        ("Ready", &summary.ready),
        ("Progressing", &summary.progressing),
        ("Degraded", &summary.degraded),
        ("QuorumAvailable", &summary.quorum_available),
    ];
    let verdicts: Vec<(&str, &Verdict)> =
        verdicts.into_iter().chain(volumes.map(|volumes| (VOLUMES_RESIZED, &volumes.resized))).collect();
    let next = DerivedStatus {
        observed_generation: generation,
        followers: count(summary.followers),
        ready_followers: count(summary.ready_followers),
        followers_ready: Some(format!("{}/{}", summary.ready_followers, summary.followers)),
        selector: Some(selector),
        volume_size: volumes.and_then(|volumes| volumes.smallest.clone()),
        conditions: conditions(current.as_ref(), generation, &verdicts, now),
        ..applied
    };
    (current.as_ref() != Some(&next)).then_some(next)
}

/// What a pass would have found of a store that sleeps, or falls asleep: nothing runs that could be asked, and that is
/// as it shall be.
#[must_use]
pub fn asleep(store: &Store, record: &Record, reason: &'static str, message: &str) -> Summary {
    let verdict = |holds| Verdict::new(holds, reason, message);
    Summary {
        ready: verdict(false),
        progressing: verdict(reason == HIBERNATING),
        degraded: verdict(false),
        quorum_available: verdict(false),
        leader: None,
        ready_followers: 0,
        followers: applied_followers(store, record),
        applied: None,
    }
}

/// The derived status of a spec that cannot be built: what runs keeps running, and the condition says why
/// the change is not followed. None if that stands there already.
#[must_use]
pub fn refused(
    current: Option<&KvClusterStatus>,
    generation: Option<i64>,
    reason: &'static str,
    message: &str,
    now: Timestamp,
) -> Option<DerivedStatus> {
    let current = current.map(DerivedStatus::of);
    let ready = Verdict::new(false, reason, message);
    let progressing = Verdict::new(false, reason, message);
    let degraded = Verdict::new(true, reason, message);
    let verdicts = [("Ready", &ready), ("Progressing", &progressing), ("Degraded", &degraded)];
    let mut next = current.clone().unwrap_or_else(DerivedStatus::empty);
    let changed = conditions(current.as_ref(), generation, &verdicts, now);
    next.observed_generation = generation;
    next.conditions.retain(|old| changed.iter().all(|new| new.type_ != old.type_));
    next.conditions.splice(0..0, changed);
    (current.as_ref() != Some(&next)).then_some(next)
}

/// The derived status of a store that is left alone: what was known of it, with a condition that says so. None if
/// that stands there already. `expiry`: what becomes of its certificate. The condition goes with the first pass after the
/// pause.
#[must_use]
pub fn paused(
    current: Option<&KvClusterStatus>,
    generation: Option<i64>,
    expiry: Option<&str>,
    now: Timestamp,
) -> Option<DerivedStatus> {
    let current = current.map(DerivedStatus::of);
    let mut next = current.clone().unwrap_or_else(DerivedStatus::empty);
    // The spec may change meanwhile; this speaks of none.
    let known = next.conditions.iter().find(|condition| condition.type_ == PAUSED);
    let generation = known.map_or(generation, |condition| condition.observed_generation);
    let expiry = expiry.map(|expiry| format!(". {expiry}")).unwrap_or_default();
    let message = format!(
        "The annotation {} says {}: the operator changes nothing, and all else here is as it was before{expiry}",
        pause::ANNOTATION,
        pause::PAUSED,
    );
    let verdict = Verdict::new(true, "Annotation", message);
    let condition = conditions(current.as_ref(), generation, &[(PAUSED, &verdict)], now);
    next.conditions.retain(|old| old.type_ != PAUSED);
    next.conditions.extend(condition);
    (current.as_ref() != Some(&next)).then_some(next)
}

impl DerivedStatus {
    fn empty() -> Self {
        Self::of(&KvClusterStatus::default())
    }
}

fn conditions(
    current: Option<&DerivedStatus>,
    generation: Option<i64>,
    verdicts: &[(&str, &Verdict)],
    now: Timestamp,
) -> Vec<Condition> {
    let since = |kind: &str, status: &str| {
        let old = current?.conditions.iter().find(|condition| condition.type_ == kind)?;
        (old.status == status).then(|| old.last_transition_time.clone())
    };
    verdicts
        .iter()
        .map(|(kind, verdict)| {
            let status = if verdict.holds { "True" } else { "False" };
            Condition {
                type_: (*kind).to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.to_owned(),
                message: verdict.message.clone(),
                observed_generation: generation,
                // Whole seconds: that is all the API server keeps, and a finer time would differ for ever.
                last_transition_time: since(kind, status).unwrap_or_else(|| Time(whole_seconds(now))),
            }
        })
        .collect()
}

fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests;
