//! Where a manager is made to end: every effect it has on the world is a numbered step that passes a gate.
//!
//! Between two steps nothing of a manager is left but what the steps did, so "right after a step, the answer lost" and
//! "right before the next one" are one moment, and managers that die after each of their steps have died at all of
//! them. A step has a kind and a number, because how often a manager looks before it acts is a matter of time. One that
//! was already on its way may also arrive late, when another manager has long taken over.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::world::PATIENCE;

/// How long steps under way beside the last one may take: a node that hangs answers never.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// One of a manager's steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    /// What it does.
    pub(crate) kind: &'static str,
    /// Which one of its kind, counted from one.
    pub(crate) number: usize,
}

/// What becomes of a manager.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// It lives on.
    Lives,
    /// It ends before its first step.
    DiesFirst,
    /// It ends when this step is done; none that begins later happens.
    DiesAfter(Step),
    /// It ends with its so-many-th change under way, which arrives when it is let go.
    LeavesBehind(usize),
    /// It lives on, and what another one left behind arrives right before its so-many-th change.
    Meets(usize, Late),
}

/// A change that is still under way when its manager is gone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Late {
    let_go: CancellationToken,
    arrived: CancellationToken,
}

impl Late {
    /// Lets it arrive, if it did not before, and waits until it has.
    pub(crate) async fn arrive(&self) -> anyhow::Result<()> {
        self.let_go.cancel();
        tokio::time::timeout(PATIENCE, self.arrived.cancelled()).await.context("a late change never arrives")
    }
}

#[derive(Debug, Default)]
struct Begun {
    steps: Vec<Step>,
    changes: usize,
    /// How many steps happen, once that is known.
    last: Option<usize>,
}

/// What all steps of one manager pass.
#[derive(Debug)]
pub(crate) struct Gate {
    fate: Fate,
    begun: Mutex<Begun>,
    done: watch::Sender<usize>,
    died: CancellationToken,
    late: Late,
}

impl Gate {
    pub(crate) fn new(fate: Fate) -> Arc<Self> {
        let (done, _) = watch::channel(0);
        Arc::new(Self { fate, begun: Mutex::default(), done, died: CancellationToken::new(), late: Late::default() })
    }

    /// Cancelled when the manager has to end.
    pub(crate) const fn died(&self) -> &CancellationToken {
        &self.died
    }

    /// What is left behind by [`Fate::LeavesBehind`].
    pub(crate) fn late(&self) -> Late {
        self.late.clone()
    }

    /// The steps that began, and how many of them change anything.
    pub(crate) fn steps(&self) -> (Vec<Step>, usize) {
        let begun = self.begun();
        (begun.steps.clone(), begun.changes)
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().expect("nobody panics while counting")
    }

    /// Notes a step: which one it is, which change, and how many steps happen.
    fn begin(&self, kind: &'static str, changes: bool) -> (usize, usize, Option<usize>) {
        let mut begun = self.begun();
        let number = 1 + begun.steps.iter().filter(|step| step.kind == kind).count();
        begun.steps.push(Step { kind, number });
        begun.changes += usize::from(changes);
        let index = begun.steps.len();
        match self.fate {
            Fate::DiesFirst => begun.last = Some(0),
            Fate::DiesAfter(step) if step == (Step { kind, number }) => begun.last = Some(index),
            _ => {}
        }
        (index, begun.changes, begun.last)
    }

    /// Carries out a step, unless the manager ends before it.
    pub(crate) async fn step<T: Send + 'static>(
        &self,
        kind: &'static str,
        changes: bool,
        effect: impl Future<Output = T> + Send + 'static,
    ) -> T {
        if self.died.is_cancelled() {
            return pending().await;
        }
        let (index, change, last) = self.begin(kind, changes);
        if let Some(last) = last.filter(|last| index > *last) {
            let mut done = self.done.subscribe();
            tokio::time::timeout(UNDER_WAY, done.wait_for(|done| *done >= last)).await.ok();
            return self.die().await;
        }
        match &self.fate {
            Fate::LeavesBehind(number) if changes && change == *number => {
                let late = self.late.clone();
                tokio::spawn(async move {
                    late.let_go.cancelled().await;
                    effect.await;
                    late.arrived.cancel();
                });
                return self.die().await;
            }
            // That it never arrives is noticed where it is waited for in the end.
            Fate::Meets(number, late) if changes && change == *number => late.arrive().await.unwrap_or_default(),
            _ => {}
        }
        let over = Over(&self.done);
        let answer = effect.await;
        drop(over);
        let last = self.begun().last;
        if last.is_some_and(|last| last == *self.done.borrow()) {
            return self.die().await;
        }
        answer
    }

    async fn die<T>(&self) -> T {
        self.died.cancel();
        pending().await
    }
}

/// Counts a step as done when it is over, also when its caller has stopped waiting for it.
struct Over<'a>(&'a watch::Sender<usize>);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|done| *done += 1);
    }
}

/// How many steps of each kind there are.
pub(crate) fn by_kind(steps: &[Step]) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for step in steps {
        *kinds.entry(step.kind).or_default() += 1;
    }
    kinds
}
