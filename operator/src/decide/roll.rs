//! Replacing outdated nodes, one step after the other.

use std::fmt;

use quorumkv_api::{NodeId, peer::NodeChange};

use super::{Leadership, NodeView, Presence, Situation};

/// The next step of replacing outdated nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roll {
    /// Nothing is outdated.
    Done,
    /// Replace this node.
    Replace(NodeId),
    /// Only the leader is left: elect another first.
    HandOver,
    /// Something is outdated, but replacing it now would take a copy too many.
    Wait(Hold),
}

/// Why no outdated node can be replaced now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// It is not known that the present description makes nodes that work: these do not answer.
    Unproven(Vec<NodeId>),
    /// Nobody leads.
    NoLeader,
    /// These are not ready, or hold less than the leader.
    Unwell(Vec<NodeId>),
    /// These are outdated, were told to end, and have not.
    Ending(Vec<NodeId>),
    /// This one is about to join or to leave.
    Changing(NodeId),
}

impl Hold {
    /// The nodes that it is about.
    #[must_use]
    pub fn nodes(&self) -> &[NodeId] {
        match self {
            Self::Unproven(nodes) | Self::Unwell(nodes) | Self::Ending(nodes) => nodes,
            Self::Changing(node) => std::slice::from_ref(node),
            Self::NoLeader => &[],
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = || self.nodes().iter().map(|node| node.0.as_str()).collect::<Vec<_>>().join(", ");
        match self {
            Self::Unproven(_) => write!(f, "of those that are renewed already, {} must answer first", names()),
            Self::NoLeader => f.write_str("a leader must be active first"),
            Self::Unwell(_) => write!(f, "{} must be ready and caught up first", names()),
            Self::Ending(_) => write!(f, "{} must end first, and come back", names()),
            Self::Changing(node) => write!(f, "{node} must have joined or left first"),
        }
    }
}

/// Which outdated node is replaced next: first one that cannot start and so holds and serves nothing, then one whose
/// process has ended, then the followers one at a time while all others are caught up, counted and ready, the leader
/// last.
///
/// While a node joins or leaves, nobody else is replaced for being outdated, and no node joins or leaves while outdated
/// ones are replaced ([`crate::scale`]).
///
/// A description that makes nodes that do not work must not spread: while a node of the present one does not answer,
/// nothing that has run, and may run again as it is, is replaced by another of its kind.
///
/// One that was told to end already is waited for like any other that is unwell. It may not end for long: where its
/// machine does not answer, only a person can say that nothing runs there any more.
#[must_use]
pub fn roll(situation: &Situation<'_>, leadership: &Leadership) -> Roll {
    let outdated: Vec<&NodeView> =
        situation.nodes.iter().filter(|view| view.outdated && view.presence != Presence::Absent).collect();
    if outdated.is_empty() {
        return Roll::Done;
    }
    let replace = |view: &NodeView| Roll::Replace(view.address.node.clone());
    if let Some(view) = outdated.iter().find(|view| view.cannot_start() && !view.is_ending()) {
        return replace(view);
    }
    // An absent pod is about to be made from the present description.
    let renewed = situation.nodes.iter().filter(|view| !view.outdated || view.presence == Presence::Absent);
    let unproven: Vec<NodeId> =
        renewed.filter(|view| view.state.is_none()).map(|view| view.address.node.clone()).collect();
    if !unproven.is_empty() {
        return Roll::Wait(Hold::Unproven(unproven));
    }
    if let Some(ended) = outdated.iter().find(|view| view.presence == Presence::NotRunning && !view.is_ending()) {
        return replace(ended);
    }
    if *leadership != Leadership::Active {
        return Roll::Wait(Hold::NoLeader);
    }
    let unwell: Vec<NodeId> = unwell(situation);
    if let Some(change) = &situation.record.membership.change {
        // One thing at a time: before it is done nobody else is replaced, and one that leaves need not be.
        let joins = |view: &&&NodeView| {
            *change == NodeChange::Joining(view.address.node.clone()) && view.presence == Presence::Running
        };
        return match outdated.iter().find(joins) {
            Some(view) if unwell.iter().all(|node| *node == view.address.node) => replace(view),
            _ => Roll::Wait(Hold::Changing(change.node().clone())),
        };
    }
    let leader = situation.record.leader.as_ref();
    let followers: Vec<&&NodeView> = outdated.iter().filter(|view| Some(&view.address.node) != leader).collect();
    // The one that is unwell itself costs nobody anything: it is the first to go, and no other before it is back.
    let may_go =
        |view: &&&&NodeView| view.presence == Presence::Running && unwell.iter().all(|node| *node == view.address.node);
    match followers.iter().find(may_go) {
        Some(follower) => replace(follower),
        None if followers.is_empty() && unwell.is_empty() => Roll::HandOver,
        None => {
            let ending: Vec<NodeId> =
                outdated.iter().filter(|view| view.is_ending()).map(|view| view.address.node.clone()).collect();
            let alone = !ending.is_empty() && unwell.iter().all(|node| ending.contains(node));
            Roll::Wait(if alone { Hold::Ending(ending) } else { Hold::Unwell(unwell) })
        }
    }
}

/// Nodes that do not run, do not answer, are not ready by the platform, or follow without being caught up and counted.
fn unwell(situation: &Situation<'_>) -> Vec<NodeId> {
    let follows = |node: &NodeId| {
        let leader = situation.leader_state();
        leader.is_some_and(|leader| {
            leader.node == *node
                || leader.followers.iter().any(|one| one.node == *node && one.connected && one.counted && one.caught_up)
        })
    };
    let well = |view: &NodeView| {
        view.presence == Presence::Running
            && view.state.is_some()
            && view.report.as_ref().is_none_or(|report| report.ready)
            && follows(&view.address.node)
    };
    situation.nodes.iter().filter(|view| !well(view)).map(|view| view.address.node.clone()).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{
        decide::{PodReport, Trouble},
        testing::{Scene, name},
    };

    /// What is done to a steady store.
    type Bend = fn(&mut Scene);

    fn after(bend: Bend) -> Scene {
        let mut scene = Scene::steady();
        bend(&mut scene);
        scene
    }

    fn unwell(nodes: &[usize]) -> Roll {
        Roll::Wait(Hold::Unwell(nodes.iter().copied().map(name).collect()))
    }

    fn unproven(nodes: &[usize]) -> Roll {
        Roll::Wait(Hold::Unproven(nodes.iter().copied().map(name).collect()))
    }

    /// Nothing runs in it.
    fn stopped(scene: &mut Scene, n: usize, trouble: Option<Trouble>) {
        scene.silence(n);
        scene.nodes[n].presence = Presence::NotRunning;
        scene.nodes[n].report = Some(PodReport { trouble, ..PodReport::default() });
        scene.seen(n).connected = false;
    }

    fn ending(nodes: &[usize]) -> Roll {
        Roll::Wait(Hold::Ending(nodes.iter().copied().map(name).collect()))
    }

    fn told_to_end(scene: &mut Scene, n: usize) {
        scene.nodes[n].report.as_mut().expect("a pod").ending = true;
    }

    fn no_image() -> Option<Trouble> {
        Some(Trouble::CannotStart("ImagePullBackOff".into()))
    }

    fn crashes() -> Option<Trouble> {
        Some(Trouble::KeepsEnding("CrashLoopBackOff".into()))
    }

    /// All are outdated but n5, which was renewed.
    fn one_is_renewed(scene: &mut Scene) {
        (0..5).for_each(|n| scene.nodes[n].outdated = true);
    }

    /// Only n5 is outdated: what it was renewed to is no longer wanted.
    fn taken_back(scene: &mut Scene) {
        scene.nodes[5].outdated = true;
    }

    #[rstest]
    #[case::nothing_outdated(|_: &mut Scene| {}, Roll::Done)]
    #[case::a_follower_first(|s: &mut Scene| { s.nodes[0].outdated = true; s.nodes[3].outdated = true; }, Roll::Replace(name(3)))]
    #[case::the_leader_last(|s: &mut Scene| s.nodes[0].outdated = true, Roll::HandOver)]
    #[case::one_is_still_learning(|s: &mut Scene| { s.nodes[3].outdated = true; s.seen(2).caught_up = false; }, unwell(&[2]))]
    #[case::one_is_not_counted_yet(|s: &mut Scene| { s.nodes[3].outdated = true; s.seen(2).counted = false; }, unwell(&[2]))]
    #[case::one_is_not_ready_for_services_yet(
        |s: &mut Scene| { s.nodes[3].outdated = true; s.nodes[2].report = Some(PodReport::default()); },
        unwell(&[2])
    )]
    #[case::one_is_missing(
        |s: &mut Scene| { s.nodes[3].outdated = true; s.silence(2); s.nodes[2].presence = Presence::Absent; },
        unproven(&[2])
    )]
    #[case::one_is_stopping(|s: &mut Scene| { s.nodes[3].outdated = true; s.nodes[2].presence = Presence::Stopping; }, unwell(&[2]))]
    #[case::one_is_on_its_way_out_already(
        |s: &mut Scene| { one_is_renewed(s); s.nodes[3].presence = Presence::Stopping; },
        ending(&[3])
    )]
    #[case::one_has_ended_and_does_not_go(
        |s: &mut Scene| { one_is_renewed(s); stopped(s, 3, None); told_to_end(s, 3); },
        ending(&[3])
    )]
    #[case::one_that_cannot_start_does_not_go(
        |s: &mut Scene| { one_is_renewed(s); stopped(s, 3, no_image()); told_to_end(s, 3); },
        ending(&[3])
    )]
    #[case::one_does_not_go_and_another_is_unwell(
        |s: &mut Scene| { one_is_renewed(s); stopped(s, 3, None); told_to_end(s, 3); s.seen(2).caught_up = false; },
        unwell(&[2, 3])
    )]
    #[case::one_does_not_go_and_another_cannot_start(
        |s: &mut Scene| { one_is_renewed(s); stopped(s, 3, no_image()); told_to_end(s, 3); stopped(s, 4, no_image()); },
        Roll::Replace(name(4))
    )]
    #[case::the_leader_stays_while_one_does_not_go(
        |s: &mut Scene| { one_is_renewed(s); (1..5).for_each(|n| s.nodes[n].outdated = n == 3); stopped(s, 3, None); told_to_end(s, 3); },
        ending(&[3])
    )]
    #[case::the_one_that_is_unwell_goes_first(
        |s: &mut Scene| { one_is_renewed(s); s.seen(4).caught_up = false; },
        Roll::Replace(name(4))
    )]
    #[case::two_are_unwell(
        |s: &mut Scene| { one_is_renewed(s); s.seen(4).caught_up = false; s.seen(3).connected = false; },
        unwell(&[3, 4])
    )]
    #[case::the_leader_stays_while_somebody_is_unwell(
        |s: &mut Scene| { s.nodes[0].outdated = true; s.seen(4).caught_up = false; },
        unwell(&[4])
    )]
    #[case::its_process_ended(|s: &mut Scene| { one_is_renewed(s); stopped(s, 3, None); }, Roll::Replace(name(3)))]
    #[case::the_new_image_cannot_be_had(|s: &mut Scene| { one_is_renewed(s); stopped(s, 5, no_image()); }, unproven(&[5]))]
    #[case::the_new_image_crashes(|s: &mut Scene| { one_is_renewed(s); stopped(s, 5, crashes()); }, unproven(&[5]))]
    #[case::the_new_image_runs_and_does_not_answer(
        |s: &mut Scene| { one_is_renewed(s); s.silence(5); s.seen(5).connected = false; },
        unproven(&[5])
    )]
    #[case::an_old_one_crashes_while_the_new_image_does_not_work(
        |s: &mut Scene| { one_is_renewed(s); stopped(s, 5, no_image()); stopped(s, 3, crashes()); },
        unproven(&[5])
    )]
    #[case::no_image_and_taken_back(|s: &mut Scene| { taken_back(s); stopped(s, 5, no_image()); }, Roll::Replace(name(5)))]
    #[case::no_image_and_taken_back_while_another_is_down(
        |s: &mut Scene| { taken_back(s); stopped(s, 5, no_image()); stopped(s, 3, None); },
        Roll::Replace(name(5))
    )]
    #[case::crashed_and_taken_back(|s: &mut Scene| { taken_back(s); stopped(s, 5, crashes()); }, Roll::Replace(name(5)))]
    #[case::ran_without_an_answer_and_taken_back(
        |s: &mut Scene| { taken_back(s); s.silence(5); s.seen(5).connected = false; },
        Roll::Replace(name(5))
    )]
    #[case::never_caught_up_and_taken_back(
        |s: &mut Scene| { taken_back(s); s.seen(5).connected = false; },
        Roll::Replace(name(5))
    )]
    fn outdated_nodes_are_replaced_one_at_a_time(#[case] bend: Bend, #[case] expected: Roll) {
        assert_eq!(roll(&after(bend).situation(), &Leadership::Active), expected);
    }

    /// Not counted yet, and all others are well.
    fn joins(scene: &mut Scene) {
        scene.record.membership = scene.record.membership.begin(NodeChange::Joining(name(5)));
        scene.seen(5).counted = false;
    }

    /// The leader may not have heard of it.
    fn leaves(scene: &mut Scene) {
        scene.record.membership = scene.record.membership.begin(NodeChange::Leaving(name(5)));
    }

    #[rstest]
    #[case::while_one_joins(|s: &mut Scene| { one_is_renewed(s); joins(s); }, Roll::Wait(Hold::Changing(name(5))))]
    #[case::while_one_leaves(|s: &mut Scene| { one_is_renewed(s); leaves(s); }, Roll::Wait(Hold::Changing(name(5))))]
    #[case::what_leaves_is_not_renewed(|s: &mut Scene| { taken_back(s); leaves(s); }, Roll::Wait(Hold::Changing(name(5))))]
    #[case::what_joins_is(|s: &mut Scene| { taken_back(s); joins(s); }, Roll::Replace(name(5)))]
    #[case::not_while_another_is_unwell(
        |s: &mut Scene| { taken_back(s); joins(s); s.seen(3).caught_up = false; },
        Roll::Wait(Hold::Changing(name(5)))
    )]
    #[case::what_joins_cannot_start_and_is_taken_back(
        |s: &mut Scene| { taken_back(s); joins(s); stopped(s, 5, no_image()); },
        Roll::Replace(name(5))
    )]
    fn nobody_else_is_replaced_while_the_set_of_nodes_changes(#[case] bend: Bend, #[case] expected: Roll) {
        assert_eq!(roll(&after(bend).situation(), &Leadership::Active), expected);
    }

    #[test]
    fn nothing_is_replaced_while_no_leader_is_active() {
        let scene = after(|s| s.nodes[3].outdated = true);
        assert_eq!(roll(&scene.situation(), &Leadership::Settling), Roll::Wait(Hold::NoLeader));
    }

    #[test]
    fn what_cannot_start_is_replaced_whoever_leads() {
        let scene = after(|s| {
            taken_back(s);
            stopped(s, 5, no_image());
        });
        assert_eq!(roll(&scene.situation(), &Leadership::Suspect), Roll::Replace(name(5)));
    }

    /// Whatever is replaced next, everybody else that has not just been renewed serves.
    #[test]
    fn a_roll_replaces_each_node_once_and_the_leader_last() {
        let mut scene = after(|s| s.nodes.iter_mut().for_each(|view| view.outdated = true));
        let mut order = Vec::new();
        loop {
            match roll(&scene.situation(), &Leadership::Active) {
                Roll::Replace(node) => {
                    let n = scene.nodes.iter().position(|view| view.address.node == node).expect("a node");
                    scene.nodes[n].outdated = false;
                    order.push(n);
                }
                step => {
                    assert_eq!(step, Roll::HandOver);
                    break;
                }
            }
        }
        assert_eq!(order, [1, 2, 3, 4, 5]);
    }
}
