//! A switchover that a person asks for: leadership goes to a node of their choice while the leader is well.
//!
//! The wish is an annotation, and it is granted or refused once. Refused is what could only disturb: a store
//! that is not well, or a node that could not lead. Granted, it is an election like any other, with a fence
//! *before* positions are compared; [`crate::elect`] then prefers the node, and safety does not rest on it.
//! Pure.

use std::time::Duration;

use quorumkv_api::{NodeId, peer::Member};
use quorumkv_protocol::election::Shortfall;

use crate::decide::{self, Leadership, Presence, Situation};

/// Names the node that shall lead. The operator takes it away when it acts on it or refuses it.
pub const ANNOTATION: &str = "quorumkv.io/switchover-to";

/// How long a wish waits for what comes by itself: an election that is under way, or the last entries.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What to do about a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Hand over now.
    HandOver,
    /// Not yet, but perhaps soon.
    Wait,
    /// Not at all.
    Refuse(Refusal),
}

/// Why a wish is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such node.
    #[error("{wanted} is no node of this store, which has {nodes}")]
    Unknown {
        /// Who shall lead.
        wanted: NodeId,
        /// Who could.
        nodes: String,
    },
    /// Nothing to do.
    #[error("{0} leads already")]
    LeadsAlready(NodeId),
    /// Nobody to take over from.
    #[error("no leader is active that could hand over to {0}")]
    NoActiveLeader(NodeId),
    /// Its pod or process is not there, or not for long.
    #[error("{wanted} {state}")]
    NotThere {
        /// Who shall lead.
        wanted: NodeId,
        /// What it does instead.
        state: &'static str,
    },
    /// It is about to be replaced.
    #[error("{0} was made from an older description and is replaced soon")]
    Outdated(NodeId),
    /// The leader has no stream to it.
    #[error("{0} is not connected to the leader")]
    NotConnected(NodeId),
    /// Its copy is new.
    #[error("{0} has lost its copy of the data and does not count before it has caught up")]
    NotCounted(NodeId),
    /// Entries are missing, and keep missing.
    #[error("{wanted} did not catch up with the leader within {PATIENCE:?}")]
    Behind {
        /// Who shall lead.
        wanted: NodeId,
    },
    /// A leader of this store could not confirm writes.
    #[error("{connected} followers can confirm writes and {needed} are needed, so no other leader could begin")]
    NoQuorum {
        /// Followers that are connected and counted.
        connected: usize,
        /// Followers that a write needs.
        needed: usize,
    },
    /// An election would have too few answers.
    #[error("too few nodes answer to elect {wanted}: {}", besides_leader(.shortfall))]
    TooFewAnswers {
        /// Who shall lead.
        wanted: NodeId,
        /// What is missing, the leader left out.
        shortfall: Shortfall,
    },
}

/// The leader's own answer was left out on purpose, so it must not be named as missing.
fn besides_leader(shortfall: &Shortfall) -> String {
    match shortfall {
        Shortfall::Recovery { counted, required, .. } => {
            format!("{counted} recorded copies besides the leader's, {required} are needed")
        }
        other => other.to_string(),
    }
}

/// Whether leadership goes to `wanted` now, for which it has been waiting this long.
#[must_use]
pub fn step(situation: &Situation<'_>, leadership: &Leadership, wanted: &NodeId, waited: Duration) -> Step {
    let soon = |refusal| if waited < PATIENCE { Step::Wait } else { Step::Refuse(refusal) };
    if !situation.store.nodes.contains(wanted) {
        let nodes = situation.store.nodes.iter().map(|node| node.0.as_str()).collect::<Vec<_>>().join(", ");
        return Step::Refuse(Refusal::Unknown { wanted: wanted.clone(), nodes });
    }
    match leadership {
        Leadership::Active => {}
        Leadership::Short(shortfall) => {
            return Step::Refuse(Refusal::TooFewAnswers { wanted: wanted.clone(), shortfall: shortfall.clone() });
        }
        // While an election is under way, or the leader is only suspected, the answer is not known yet.
        _ => return soon(Refusal::NoActiveLeader(wanted.clone())),
    }
    match obstacle(situation, wanted) {
        Some(refusal @ Refusal::Behind { .. }) => soon(refusal),
        Some(refusal) => Step::Refuse(refusal),
        None => Step::HandOver,
    }
}

/// What stands in the way while the leader is active.
fn obstacle(situation: &Situation<'_>, wanted: &NodeId) -> Option<Refusal> {
    if situation.record.leader.as_ref() == Some(wanted) {
        return Some(Refusal::LeadsAlready(wanted.clone()));
    }
    let not_there = |state| Some(Refusal::NotThere { wanted: wanted.clone(), state });
    let Some(view) = situation.node(wanted) else { return not_there("is absent") };
    match view.presence {
        Presence::Absent => return not_there("is absent"),
        Presence::NotRunning => return not_there("does not run"),
        Presence::Stopping => return not_there("is being stopped"),
        Presence::Running => {}
    }
    let Some(state) = &view.state else { return not_there("does not answer") };
    if view.outdated {
        return Some(Refusal::Outdated(wanted.clone()));
    }
    let Some(leader) = situation.leader_state() else { return Some(Refusal::NoActiveLeader(wanted.clone())) };
    let follower = leader.followers.iter().find(|follower| follower.node == *wanted && follower.connected);
    let Some(follower) = follower else { return Some(Refusal::NotConnected(wanted.clone())) };
    let copy = Member { name: wanted.clone(), storage_id: state.storage_id };
    let same = follower.storage_id == Some(state.storage_id);
    if !same || !follower.counted || !follower.caught_up || !situation.record.members.contains(&copy) {
        return Some(Refusal::NotCounted(wanted.clone()));
    }
    // A leader whose writes wait would be followed by one that cannot even begin.
    let connected = leader.followers.iter().filter(|follower| follower.connected && follower.counted).count();
    let needed = usize::from(leader.settings?.settings.write_quorum.0);
    if connected < needed {
        return Some(Refusal::NoQuorum { connected, needed });
    }
    if let Err(shortfall) = decide::forecast_without(situation, &leader.node) {
        return Some(Refusal::TooFewAnswers { wanted: wanted.clone(), shortfall });
    }
    // Under load nobody ever holds all that the leader holds. Who holds all that is committed keeps up with the
    // fastest, and need not be waited for after the fence; what it lacks then, nobody was told of.
    (follower.match_seq < leader.commit).then(|| Refusal::Behind { wanted: wanted.clone() })
}

#[cfg(test)]
mod tests {
    use quorumkv_api::{Seq, WriteQuorum};
    use rstest::rstest;

    use super::*;
    use crate::testing::{Scene, copy, name};

    type Bend = fn(&mut Scene);

    fn after(bend: Bend, leadership: &Leadership, waited: Duration) -> Step {
        let mut scene = Scene::steady();
        bend(&mut scene);
        step(&scene.situation(), leadership, &name(2), waited)
    }

    #[rstest]
    #[case::all_is_well(|_: &mut Scene| {})]
    #[case::another_follower_is_gone(|s: &mut Scene| { s.silence(4); s.seen(4).connected = false; })]
    #[case::another_is_outdated(|s: &mut Scene| s.nodes[4].outdated = true)]
    #[case::the_leader_is_outdated(|s: &mut Scene| s.nodes[0].outdated = true)]
    #[case::it_lacks_what_is_not_committed(|s: &mut Scene| s.state(0).last.seq.0 += 40)]
    fn leadership_goes_to_a_follower_that_holds_all_that_is_committed(#[case] bend: Bend) {
        assert_eq!(after(bend, &Leadership::Active, Duration::ZERO), Step::HandOver);
    }

    #[rstest]
    #[case::unknown(|s: &mut Scene| { s.store.nodes.remove(2); }, "n2 is no node of this store, which has n0, n1, n3, n4, n5")]
    #[case::leads(|s: &mut Scene| s.record.leader = Some(name(2)), "n2 leads already")]
    #[case::absent(|s: &mut Scene| s.nodes[2].presence = Presence::Absent, "n2 is absent")]
    #[case::not_running(|s: &mut Scene| s.nodes[2].presence = Presence::NotRunning, "n2 does not run")]
    #[case::stopping(|s: &mut Scene| s.nodes[2].presence = Presence::Stopping, "n2 is being stopped")]
    #[case::silent(|s: &mut Scene| s.silence(2), "n2 does not answer")]
    #[case::outdated(|s: &mut Scene| s.nodes[2].outdated = true, "n2 was made from an older description and is replaced soon")]
    #[case::cut_off(|s: &mut Scene| s.seen(2).connected = false, "n2 is not connected to the leader")]
    #[case::not_counted(|s: &mut Scene| s.seen(2).counted = false, "n2 has lost its copy")]
    #[case::still_learning(|s: &mut Scene| s.seen(2).caught_up = false, "n2 has lost its copy")]
    #[case::not_recorded(|s: &mut Scene| s.record.members.retain(|member| member.name != name(2)), "n2 has lost its copy")]
    #[case::restarted_since_the_leader_saw_it(|s: &mut Scene| s.state(2).storage_id = copy(102), "n2 has lost its copy")]
    #[case::writes_wait(
        |s: &mut Scene| (3..6).for_each(|n| s.seen(n).connected = false),
        "2 followers can confirm writes and 3 are needed"
    )]
    #[case::too_few_answer(
        |s: &mut Scene| {
            s.nodes.iter_mut().filter_map(|view| view.state.as_mut()?.settings.as_mut()).for_each(|entry| {
                entry.settings.write_quorum = WriteQuorum(1);
            });
            s.silence(5);
        },
        "too few nodes answer to elect n2: 4 recorded copies besides the leader's, 5 are needed"
    )]
    fn what_would_only_disturb_is_refused_at_once(#[case] bend: Bend, #[case] reason: &str) {
        let step = after(bend, &Leadership::Active, Duration::ZERO);
        let Step::Refuse(refusal) = step else { panic!("{step:?}") };
        assert!(refusal.to_string().contains(reason), "{refusal}");
    }

    #[rstest]
    #[case::electing(|_: &mut Scene| {}, Leadership::Settling)]
    #[case::suspected(|_: &mut Scene| {}, Leadership::Suspect)]
    #[case::behind(|s: &mut Scene| s.seen(2).match_seq = Seq(8), Leadership::Active)]
    fn what_passes_is_waited_for_and_not_for_ever(#[case] bend: Bend, #[case] leadership: Leadership) {
        assert_eq!(after(bend, &leadership, PATIENCE / 2), Step::Wait);
        assert!(matches!(after(bend, &leadership, PATIENCE), Step::Refuse(_)));
    }

    #[test]
    fn a_store_that_is_down_refuses_with_what_is_missing() {
        let shortfall = Shortfall::Recovery { counted: 2, required: 3, missing: vec![name(0)] };
        let step = after(|_| {}, &Leadership::Short(shortfall), Duration::ZERO);
        assert!(matches!(step, Step::Refuse(Refusal::TooFewAnswers { .. })), "{step:?}");
    }
}
