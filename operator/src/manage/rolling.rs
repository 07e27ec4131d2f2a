//! How far the replacement of outdated nodes is, from one pass to the next: what is told of it, and when it is held.

use std::time::Duration;

use tokio::time::Instant;

use super::{Happening, Pass};
use crate::decide::{Hold, NodeView, Roll};

/// How long a step may wait for a node that has just been replaced, before people are told that it waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What is remembered of it. Losing it costs an event too many.
#[derive(Debug, Default)]
pub(super) struct Progress {
    under_way: bool,
    waits_since: Option<Instant>,
    told: Option<Hold>,
}

/// Takes note of the pass's decision, and tells what is news about it.
pub(super) fn note(progress: &mut Progress, pass: &mut Pass, now: Instant) {
    if pass.roll == Roll::Done {
        if std::mem::take(progress).under_way {
            pass.happenings.push(Happening::Rolled);
        }
        return;
    }
    if !std::mem::replace(&mut progress.under_way, true) {
        let outdated = pass.nodes.iter().filter(|view| view.outdated).map(|view| view.address.node.clone());
        pass.happenings.push(Happening::Rolling { nodes: outdated.collect() });
    }
    let Roll::Wait(hold) = &pass.roll else {
        (progress.waits_since, progress.told) = (None, None);
        return;
    };
    let waits = now.saturating_duration_since(*progress.waits_since.get_or_insert(now));
    let in_the_way = |view: &&NodeView| hold.nodes().contains(&view.address.node) && view.trouble().is_some();
    let trouble = pass.nodes.iter().find(in_the_way);
    pass.roll_held = waits >= PATIENCE || trouble.is_some();
    if pass.roll_held && progress.told.as_ref() != Some(hold) {
        progress.told = Some(hold.clone());
        let trouble = trouble.and_then(|view| Some((view.address.node.clone(), view.trouble()?.clone())));
        pass.happenings.push(Happening::RollHeld { hold: hold.clone(), trouble });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decide::{PodReport, Trouble},
        reason::Reason,
        testing::{Scene, name},
    };

    fn pass(roll: Roll) -> Pass {
        Pass { roll, ..Scene::steady().pass() }
    }

    fn told(progress: &mut Progress, mut pass: Pass, at: Instant) -> (Vec<Reason>, bool) {
        note(progress, &mut pass, at);
        (pass.happenings.iter().map(Happening::reason).collect(), pass.roll_held)
    }

    fn waits() -> Pass {
        pass(Roll::Wait(Hold::Unwell(vec![name(3)])))
    }

    #[test]
    fn beginning_and_end_are_told_once() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        assert_eq!(told(&mut progress, pass(Roll::Done), now), (vec![], false), "nothing was to be done");
        assert_eq!(told(&mut progress, pass(Roll::Replace(name(3))), now), (vec![Reason::Rolling], false));
        assert_eq!(told(&mut progress, waits(), now), (vec![], false));
        assert_eq!(told(&mut progress, pass(Roll::HandOver), now), (vec![], false));
        assert_eq!(told(&mut progress, pass(Roll::Done), now), (vec![Reason::Rolled], false));
        assert_eq!(told(&mut progress, pass(Roll::Done), now), (vec![], false));
    }

    #[test]
    fn a_long_wait_is_told_once_and_counts_from_the_last_step() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        told(&mut progress, waits(), now);
        told(&mut progress, pass(Roll::Replace(name(3))), now + PATIENCE / 2);
        assert_eq!(told(&mut progress, waits(), now + PATIENCE), (vec![], false), "it went on meanwhile");
        assert_eq!(told(&mut progress, waits(), now + PATIENCE * 2), (vec![Reason::RollHeld], true));
        assert_eq!(told(&mut progress, waits(), now + PATIENCE * 3), (vec![], true));
    }

    #[test]
    fn what_does_not_pass_by_itself_is_told_at_once() {
        let mut held = waits();
        let trouble = Some(Trouble::CannotStart("ImagePullBackOff".into()));
        held.nodes[3].report = Some(PodReport { trouble, ..PodReport::default() });
        let mut progress = Progress { under_way: true, ..Progress::default() };
        note(&mut progress, &mut held, Instant::now());
        let text = held.happenings[0].to_string();
        assert!(held.roll_held && text.contains("n3 must be ready") && text.contains("ImagePullBackOff"), "{text}");
    }

    #[test]
    fn a_pod_that_does_not_end_is_named_with_its_machine_once() {
        let (mut progress, now) = (Progress { under_way: true, ..Progress::default() }, Instant::now());
        let ends = || pass(Roll::Wait(Hold::Ending(vec![name(3)])));
        assert_eq!(told(&mut progress, ends(), now), (vec![], false), "it has its time");
        let stuck = || {
            let mut pass = ends();
            let trouble = Some(Trouble::DoesNotEnd("worker-2".into()));
            pass.nodes[3].report = Some(PodReport { ending: true, trouble, ..PodReport::default() });
            pass
        };
        let mut held = stuck();
        note(&mut progress, &mut held, now);
        let text = held.happenings[0].to_string();
        assert!(held.roll_held && text.contains("n3 must end first") && text.contains("worker-2"), "{text}");
        assert_eq!(told(&mut progress, stuck(), now), (vec![], true));
    }
}
