//! What to do next, from what is recorded and what was seen. Pure: no clock, no IO.
//!
//! The same decisions steer pods and local processes. Each function answers one question:
//! [`leadership`] whether a leader must be elected, [`membership`] which learner may count from now on,
//! [`settings`] what has to be changed on the leader, [`roles`] which pod carries which label, and [`roll()`]
//! which outdated node is replaced next.

mod roll;

use std::{collections::BTreeMap, fmt, time::Duration};

use quorumkv_api::{
    Epoch, NodeId, Settings, SettingsPatch, WriteQuorum,
    lab::Role,
    peer::{FenceReply, Member, NodeState, PeerAddress},
};
use quorumkv_protocol::election::{self, Shortfall};

pub use self::roll::{Hold, Roll, roll};
use crate::{crd::DataLossPolicy, record::Record, validate::Store};

/// How long a leader may be silent before another is elected.
pub const SILENCE: Duration = Duration::from_secs(2);
/// How often it must have been asked in vain before that, so that a pause of the manager's own is no silence.
pub const SILENT_PROBES: u32 = 2;
/// How long a new store waits for its last node before it starts without it.
pub const BOOTSTRAP_PATIENCE: Duration = Duration::from_secs(5);

/// Whether a node's process can be there at all, as the platform knows without asking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// There is no pod or process of this name.
    Absent,
    /// There is one, but nothing runs in it: not started yet, waiting for its image, or ended.
    NotRunning,
    /// It runs.
    Running,
    /// It runs and is about to end.
    Stopping,
}

/// What the platform says of a node beyond its presence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodReport {
    /// Whether Services and budgets count it as ready. That comes a moment after the node says so of itself.
    pub ready: bool,
    /// Whether it was told to end, whatever runs in it.
    pub ending: bool,
    /// What keeps it from running, or from ending.
    pub trouble: Option<Trouble>,
}

/// What keeps a pod from running, by the platform's own word for it, such as `ImagePullBackOff`, or from ending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Its process is not even begun: there is no image, no machine, or a part of its description is missing.
    CannotStart(String),
    /// Its process ended, perhaps again and again.
    KeepsEnding(String),
    /// It should have ended by now, on this machine; of no name, if it has none.
    DoesNotEnd(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotStart(reason) | Self::KeepsEnding(reason) => f.write_str(reason),
            Self::DoesNotEnd(machine) if machine.is_empty() => f.write_str("does not end"),
            Self::DoesNotEnd(machine) => write!(f, "does not end, and its machine {machine} may not answer"),
        }
    }
}

/// One node as it was found.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Where it is reached.
    pub address: PeerAddress,
    /// Whether its process can be there at all.
    pub presence: Presence,
    /// What it says of itself; none if it did not answer.
    pub state: Option<NodeState>,
    /// Whether it was made from another description than the present one.
    pub outdated: bool,
    /// Whether it runs and does not take the manager's token: it is there, and cannot be asked what it is.
    pub refuses_token: bool,
    /// What the platform says of it besides; none where there is no pod, but a process.
    pub report: Option<PodReport>,
}

impl NodeView {
    /// What keeps it from running, if the platform says so.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        self.report.as_ref()?.trouble.as_ref()
    }

    /// Whether it was told to end: what comes after it is waited for, and telling it again changes nothing.
    fn is_ending(&self) -> bool {
        self.presence == Presence::Stopping || self.report.as_ref().is_some_and(|report| report.ending)
    }

    fn cannot_start(&self) -> bool {
        self.presence == Presence::NotRunning && matches!(self.trouble(), Some(Trouble::CannotStart(_)))
    }
}

/// All that the decisions look at.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// What the store shall be.
    pub store: &'a Store,
    /// What is remembered.
    pub record: &'a Record,
    /// What was found: one entry per node of the store.
    pub nodes: &'a [NodeView],
    /// How long the recorded leader has not answered.
    pub silent_for: Duration,
    /// How often in a row it was asked in vain.
    pub silent_probes: u32,
    /// How long this store has been waiting to start.
    pub waiting_for: Duration,
}

impl Situation<'_> {
    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &NodeId) -> Option<&NodeView> {
        self.nodes.iter().find(|view| view.address.node == *name)
    }

    /// What the recorded leader says of itself, if it leads the recorded epoch.
    #[must_use]
    pub fn leader_state(&self) -> Option<&NodeState> {
        let state = self.node(self.record.leader.as_ref()?)?.state.as_ref()?;
        (state.role == Role::Leader && state.epoch == self.record.epoch).then_some(state)
    }
}

/// Why a leader is elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElectionReason {
    /// No leader is on record: a new store, or an election that was cut short.
    NoLeader,
    /// The leader's pod or process is gone.
    LeaderGone,
    /// The leader is being stopped.
    LeaderStopping,
    /// The leader's process runs, but lost its copy of the data.
    LeaderLostCopy,
    /// The node on record does not lead the recorded epoch: it restarted or was never promoted.
    NotLeading,
    /// The leader has not answered for too long.
    LeaderSilent,
    /// Every other node is renewed; the leader hands over to be renewed as well.
    Renewal,
    /// A person wants another node to lead.
    Switchover,
    /// The leader is to leave the store.
    Scaling,
}

impl fmt::Display for ElectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLeader => "no leader was on record",
            Self::LeaderGone => "the leader is gone",
            Self::LeaderStopping => "the leader is being stopped",
            Self::LeaderLostCopy => "the leader lost its copy of the data",
            Self::NotLeading => "the recorded leader does not lead",
            Self::LeaderSilent => "the leader does not answer",
            Self::Renewal => "the leader is to be renewed",
            Self::Switchover => "a switchover was asked for",
            Self::Scaling => "the leader is to leave the store",
        })
    }
}

/// The state of leadership, and with it what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// The leader leads and accepts writes.
    Active,
    /// The leader is promoted, but its first entry is not committed yet.
    Settling,
    /// The leader does not answer, but not for long enough to replace it.
    Suspect,
    /// Elect another.
    Elect(ElectionReason),
    /// A leader is needed, but an election now would only disturb: too few nodes answer.
    Short(Shortfall),
    /// Every recorded copy is gone, all nodes answer and are empty, and the spec says to start again.
    Reset,
}

/// Whether a leader must be elected. Never while the recorded one answers, unless it is being stopped.
#[must_use]
pub fn leadership(situation: &Situation<'_>) -> Leadership {
    let Some(reason) = election_reason(situation) else {
        return match situation.leader_state() {
            Some(state) if state.ready => Leadership::Active,
            Some(_) => Leadership::Settling,
            None => Leadership::Suspect,
        };
    };
    match forecast(situation) {
        Ok(()) => Leadership::Elect(reason),
        Err(_) if may_reset(situation) => Leadership::Reset,
        // A leader that still answers keeps leading where nobody can take over.
        Err(_) if reason == ElectionReason::LeaderStopping && situation.leader_state().is_some() => Leadership::Active,
        Err(shortfall) => Leadership::Short(shortfall),
    }
}

fn election_reason(situation: &Situation<'_>) -> Option<ElectionReason> {
    let record = situation.record;
    let Some(leader) = &record.leader else { return Some(ElectionReason::NoLeader) };
    let Some(view) = situation.node(leader) else { return Some(ElectionReason::LeaderGone) };
    match view.presence {
        Presence::Absent | Presence::NotRunning => return Some(ElectionReason::LeaderGone),
        Presence::Stopping => return Some(ElectionReason::LeaderStopping),
        Presence::Running => {}
    }
    let Some(state) = &view.state else {
        let silent = situation.silent_for >= SILENCE && situation.silent_probes >= SILENT_PROBES;
        return silent.then_some(ElectionReason::LeaderSilent);
    };
    if record.last_leader.as_ref().is_some_and(|last| last.storage_id != state.storage_id) {
        return Some(ElectionReason::LeaderLostCopy);
    }
    situation.leader_state().is_none().then_some(ElectionReason::NotLeading)
}

/// Whether an election would succeed if every node that answers now answered to the fence as well. Fencing
/// stops a leader that may still work for somebody else, so it is not tried in vain.
fn forecast(situation: &Situation<'_>) -> Result<(), Shortfall> {
    let Situation { store, record, nodes, waiting_for, .. } = *situation;
    let answers: Vec<FenceReply> = nodes.iter().filter_map(|view| view.state.as_ref()).map(likely_answer).collect();
    election::elect(&record.for_election(store.nodes.len()), &store.nodes, &answers, &[])?;
    if record.members.is_empty() && answers.len() < store.nodes.len() && waiting_for < BOOTSTRAP_PATIENCE {
        let missing = store.nodes.iter().filter(|name| answers.iter().all(|answer| answer.node != **name));
        return Err(Shortfall::Bootstrap {
            required: store.nodes.len(),
            nodes: store.nodes.len(),
            answered: answers.len(),
            missing: missing.cloned().collect(),
        });
    }
    Ok(())
}

/// The same without the answer of this node: whether the others are enough.
pub(crate) fn forecast_without(situation: &Situation<'_>, node: &NodeId) -> Result<(), Shortfall> {
    let Situation { store, record, nodes, .. } = *situation;
    let others = nodes.iter().filter_map(|view| view.state.as_ref()).filter(|state| state.node != *node);
    let answers: Vec<FenceReply> = others.map(likely_answer).collect();
    election::elect(&record.for_election(store.nodes.len()), &store.nodes, &answers, &[]).map(|_| ())
}

fn likely_answer(state: &NodeState) -> FenceReply {
    FenceReply {
        node: state.node.clone(),
        storage_id: state.storage_id,
        process_id: state.process_id,
        previous_promise: state.promised,
        last: state.last,
        commit: state.commit,
        settings: state.settings.into_iter().collect(),
        settings_committed: state.settings.is_some(),
        lease_remaining_ms: 0,
    }
}

fn may_reset(situation: &Situation<'_>) -> bool {
    let Situation { store, record, nodes, .. } = *situation;
    let recorded = |state: &NodeState| record.members.iter().any(|member| member.storage_id == state.storage_id);
    let lost = |view: &NodeView| view.state.as_ref().is_some_and(|state| state.last.seq.0 == 0 && !recorded(state));
    store.data_loss == DataLossPolicy::Reset
        && !record.members.is_empty()
        && nodes.len() == store.nodes.len()
        && nodes.iter().all(lost)
}

/// The nodes to prefer among equally complete logs, best first: those that stay, in the store's order, and
/// renewed ones before outdated ones.
#[must_use]
pub fn preference(situation: &Situation<'_>) -> Vec<NodeId> {
    let stays = |name: &&NodeId| {
        situation.node(name).is_some_and(|view| view.presence == Presence::Running && view.state.is_some())
    };
    let mut names: Vec<NodeId> = situation.store.nodes.iter().filter(stays).cloned().collect();
    let goes = |name: &NodeId| situation.store.names.iter().skip(situation.store.wanted).any(|other| other == name);
    names.sort_by_key(|name| (goes(name), situation.node(name).is_some_and(|view| view.outdated)));
    names
}

/// The epoch to try next.
#[must_use]
pub fn next_epoch(situation: &Situation<'_>, recorded: Epoch) -> Epoch {
    let promises = situation.nodes.iter().filter_map(|view| view.state.as_ref()).map(|state| state.promised);
    election::next_epoch(recorded, promises)
}

/// The members with every learner that caught up with this epoch's leader, if that changes anything.
///
/// A learner is a node whose copy is not the recorded one: its disk or memory was lost. It is recorded
/// first and counted by the leader afterwards. A node that joins or leaves is [`crate::scale`]'s.
#[must_use]
pub fn membership(situation: &Situation<'_>) -> Option<Vec<Member>> {
    let leader = situation.leader_state()?;
    let mut members = situation.record.members.clone();
    for follower in &leader.followers {
        let Some(storage_id) = follower.storage_id else { continue };
        let learned = Member { name: follower.node.clone(), storage_id };
        let changes = situation.record.membership.change.as_ref().is_some_and(|it| *it.node() == learned.name);
        let stays = situation.store.nodes.contains(&learned.name) && !changes;
        if !follower.caught_up || members.contains(&learned) || !stays {
            continue;
        }
        members.retain(|member| member.name != learned.name);
        members.push(learned);
    }
    members.sort();
    let mut recorded = situation.record.members.clone();
    recorded.sort();
    (members != recorded).then_some(members)
}

/// The settings that shall be in force now: those of the spec, except that a quorum for which there are too few
/// followers yet waits until they have joined.
#[must_use]
pub fn wanted_settings(situation: &Situation<'_>) -> Settings {
    let Situation { store, record, .. } = situation;
    let wanted = store.settings;
    let membership = &record.membership;
    let followers = membership.nodes.saturating_sub(1 + usize::from(membership.leaving().is_some()));
    if membership.nodes == 0 || usize::from(wanted.write_quorum.0) <= followers {
        return wanted;
    }
    let applied = situation.leader_state().and_then(|state| state.settings);
    let most = WriteQuorum(u8::try_from(followers).unwrap_or(u8::MAX));
    Settings { write_quorum: applied.map_or(most, |entry| entry.settings.write_quorum), ..wanted }
}

/// What has to change on the leader so that the wanted settings are in force.
#[must_use]
pub fn settings(situation: &Situation<'_>) -> Option<SettingsPatch> {
    let leader = situation.leader_state().filter(|state| state.ready)?;
    let wanted = wanted_settings(situation);
    match leader.settings {
        None => Some(wanted.into()),
        Some(entry) if entry.settings == wanted => None,
        Some(entry) => {
            let applied = entry.settings;
            Some(SettingsPatch {
                write_quorum: (applied.write_quorum != wanted.write_quorum).then_some(wanted.write_quorum),
                delay: (applied.delay != wanted.delay).then_some(wanted.delay),
                write_timeout: (applied.write_timeout != wanted.write_timeout).then_some(wanted.write_timeout),
            })
        }
    }
}

/// Which role each node's label shall show; a node that is not listed keeps what it has.
///
/// Only an active leader is shown, so that the Service never points to a node that refuses writes. While
/// the leader is suspected, nothing changes.
#[must_use]
pub fn roles(situation: &Situation<'_>, leadership: &Leadership) -> BTreeMap<NodeId, Role> {
    if *leadership == Leadership::Suspect {
        return BTreeMap::new();
    }
    let active = situation.leader_state().filter(|state| state.ready).map(|state| state.node.clone());
    let role = |name: &NodeId| if active.as_ref() == Some(name) { Role::Leader } else { Role::Follower };
    situation.store.nodes.iter().map(|name| (name.clone(), role(name))).collect()
}

/// Whether every node runs, answers, and every follower is connected, caught up and counted.
#[must_use]
pub fn is_whole(situation: &Situation<'_>) -> bool {
    let running = |view: &NodeView| view.presence == Presence::Running && view.state.is_some();
    situation.nodes.len() == situation.store.nodes.len()
        && situation.nodes.iter().all(running)
        && ready_followers(situation) == situation.store.followers()
}

/// How many followers hold what the leader holds and count.
#[must_use]
pub fn ready_followers(situation: &Situation<'_>) -> usize {
    let Some(leader) = situation.leader_state() else { return 0 };
    leader.followers.iter().filter(|follower| follower.connected && follower.counted && follower.caught_up).count()
}

#[cfg(test)]
mod tests {
    use quorumkv_api::Delay;
    use rstest::rstest;

    use super::*;
    use crate::testing::{Scene, copy, name};

    /// What is done to a steady store.
    type Bend = fn(&mut Scene);

    fn after(bend: Bend) -> Scene {
        let mut scene = Scene::steady();
        bend(&mut scene);
        scene
    }

    #[rstest]
    #[case::at_rest(|_: &mut Scene| {}, Leadership::Active)]
    #[case::a_follower_is_gone(|s: &mut Scene| { s.silence(4); s.nodes[4].presence = Presence::Absent; }, Leadership::Active)]
    #[case::barrier_not_committed(|s: &mut Scene| s.state(0).ready = false, Leadership::Settling)]
    #[case::pod_is_gone(|s: &mut Scene| { s.silence(0); s.nodes[0].presence = Presence::Absent; }, Leadership::Elect(ElectionReason::LeaderGone))]
    #[case::process_ended(|s: &mut Scene| { s.silence(0); s.nodes[0].presence = Presence::NotRunning; }, Leadership::Elect(ElectionReason::LeaderGone))]
    #[case::pod_is_stopping(|s: &mut Scene| s.nodes[0].presence = Presence::Stopping, Leadership::Elect(ElectionReason::LeaderStopping))]
    #[case::another_copy(|s: &mut Scene| s.reborn(0), Leadership::Elect(ElectionReason::LeaderLostCopy))]
    #[case::same_copy_but_restarted(|s: &mut Scene| s.state(0).role = Role::Follower, Leadership::Elect(ElectionReason::NotLeading))]
    #[case::leads_an_older_epoch(|s: &mut Scene| s.state(0).epoch = Epoch(2), Leadership::Elect(ElectionReason::NotLeading))]
    #[case::named_but_never_promoted(
        |s: &mut Scene| { s.record.leader = Some(name(2)); s.record.last_leader = Some(Member { name: name(2), storage_id: copy(2) }); },
        Leadership::Elect(ElectionReason::NotLeading)
    )]
    #[case::election_was_cut_short(|s: &mut Scene| s.record.leader = None, Leadership::Elect(ElectionReason::NoLeader))]
    #[case::silent_for_a_moment(|s: &mut Scene| { s.silence(0); s.silent_for = Duration::from_millis(1900); s.silent_probes = 5; }, Leadership::Suspect)]
    #[case::asked_once_only(|s: &mut Scene| { s.silence(0); s.silent_for = Duration::from_secs(9); s.silent_probes = 1; }, Leadership::Suspect)]
    #[case::silent_for_long(|s: &mut Scene| { s.silence(0); s.silent_for = SILENCE; s.silent_probes = 2; }, Leadership::Elect(ElectionReason::LeaderSilent))]
    fn a_leader_is_elected_when_the_recorded_one_cannot_lead(#[case] bend: Bend, #[case] expected: Leadership) {
        assert_eq!(leadership(&after(bend).situation()), expected);
    }

    #[test]
    fn no_election_is_tried_that_would_fall_short() {
        let mut scene = Scene::steady();
        for n in 0..4 {
            scene.silence(n);
            scene.nodes[n].presence = Presence::NotRunning;
        }
        let Leadership::Short(shortfall) = leadership(&scene.situation()) else { panic!("two of three are too few") };
        assert_eq!(shortfall, Shortfall::Recovery { counted: 2, required: 3, missing: (0..4).map(name).collect() });
    }

    #[test]
    fn a_stopping_leader_keeps_leading_where_nobody_can_take_over() {
        let mut scene = Scene::steady();
        scene.nodes[0].presence = Presence::Stopping;
        // Its own copy alone would be enough for an election, so it must not be on record as last leader.
        scene.record.last_leader = Some(Member { name: name(5), storage_id: copy(5) });
        for n in 1..6 {
            scene.silence(n);
        }
        assert_eq!(leadership(&scene.situation()), Leadership::Active);
    }

    #[test]
    fn a_new_store_waits_a_while_for_its_last_node() {
        let mut scene = Scene::unborn();
        assert_eq!(leadership(&scene.situation()), Leadership::Elect(ElectionReason::NoLeader));
        scene.silence(3);
        assert!(matches!(leadership(&scene.situation()), Leadership::Short(Shortfall::Bootstrap { .. })));
        scene.waiting_for = BOOTSTRAP_PATIENCE;
        assert_eq!(leadership(&scene.situation()), Leadership::Elect(ElectionReason::NoLeader));
        scene.silence(4);
        assert!(matches!(leadership(&scene.situation()), Leadership::Short(Shortfall::Bootstrap { .. })));
    }

    #[rstest]
    #[case::waits_for_a_person(DataLossPolicy::Halt, 6, false)]
    #[case::starts_again(DataLossPolicy::Reset, 6, true)]
    #[case::one_copy_may_be_left(DataLossPolicy::Reset, 5, false)]
    fn a_store_starts_again_only_when_every_copy_is_known_to_be_lost(
        #[case] policy: DataLossPolicy,
        #[case] reborn: usize,
        #[case] resets: bool,
    ) {
        let mut scene = Scene::steady();
        scene.store.data_loss = policy;
        (0..reborn).for_each(|n| scene.reborn(n));
        assert_eq!(leadership(&scene.situation()) == Leadership::Reset, resets);
    }

    #[test]
    fn the_preferred_successor_stays_and_is_renewed() {
        let mut scene = Scene::steady();
        scene.nodes[0].presence = Presence::Stopping;
        scene.nodes[1].outdated = true;
        scene.silence(2);
        assert_eq!(preference(&scene.situation()), [name(3), name(4), name(5), name(1)]);
    }

    #[rstest]
    #[case::at_rest(|_: &mut Scene| {}, None)]
    #[case::still_learning(|s: &mut Scene| { s.seen(2).storage_id = Some(copy(102)); s.seen(2).caught_up = false; }, None)]
    #[case::has_learnt(|s: &mut Scene| s.seen(2).storage_id = Some(copy(102)), Some((2, 102)))]
    #[case::never_recorded(|s: &mut Scene| s.record.members.retain(|member| member.name != name(4)), Some((4, 4)))]
    #[case::a_stranger(|s: &mut Scene| s.seen(2).node = NodeId("n77".into()), None)]
    #[case::reported_by_a_leader_of_another_epoch(|s: &mut Scene| { s.seen(2).storage_id = Some(copy(102)); s.state(0).epoch = Epoch(2); }, None)]
    fn a_copy_is_recorded_once_this_epochs_leader_reports_it_caught_up(
        #[case] bend: Bend,
        #[case] recorded: Option<(usize, usize)>,
    ) {
        let members = membership(&after(bend).situation());
        let Some((node, id)) = recorded else { return assert_eq!(members, None) };
        let members = members.expect("a change");
        let of_node: Vec<&Member> = members.iter().filter(|member| member.name == name(node)).collect();
        assert_eq!(of_node, [&Member { name: name(node), storage_id: copy(id) }]);
        assert_eq!(members.len(), 6);
    }

    #[test]
    fn only_what_differs_is_pushed() {
        let mut scene = Scene::steady();
        assert_eq!(settings(&scene.situation()), None);
        scene.store.settings.write_quorum = WriteQuorum(5);
        let patch = SettingsPatch { write_quorum: Some(WriteQuorum(5)), ..SettingsPatch::default() };
        assert_eq!(settings(&scene.situation()), Some(patch));
        scene.state(0).ready = false;
        assert_eq!(settings(&scene.situation()), None, "a leader that settles takes no settings");
    }

    #[test]
    fn a_changed_delay_leaves_the_quorum_alone() {
        let mut scene = Scene::steady();
        let delay = Delay { min: Duration::ZERO, max: Duration::from_millis(7) };
        scene.store.settings.delay = delay;
        let patch = SettingsPatch { delay: Some(delay), ..SettingsPatch::default() };
        assert_eq!(settings(&scene.situation()), Some(patch));
    }

    #[rstest]
    #[case::active(|_: &mut Scene| {}, Leadership::Active, Some(Role::Leader))]
    #[case::not_ready(|s: &mut Scene| s.state(0).ready = false, Leadership::Settling, Some(Role::Follower))]
    #[case::suspected(|s: &mut Scene| s.silence(0), Leadership::Suspect, None)]
    #[case::being_replaced(|s: &mut Scene| s.silence(0), Leadership::Elect(ElectionReason::LeaderSilent), Some(Role::Follower))]
    fn the_service_follows_an_active_leader_only(
        #[case] bend: Bend,
        #[case] state: Leadership,
        #[case] role: Option<Role>,
    ) {
        assert_eq!(roles(&after(bend).situation(), &state).get(&name(0)).copied(), role);
    }

    #[test]
    fn the_next_epoch_is_above_every_promise() {
        let mut scene = Scene::steady();
        scene.state(4).promised = Epoch(8);
        assert_eq!(next_epoch(&scene.situation(), Epoch(3)), Epoch(9));
    }
}
