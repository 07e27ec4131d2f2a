//! What a reconcile does besides the pass and the report: writes to the API server for which neither may wait.
//!
//! Each may fail, because somebody refuses it or the API server is busy, and go on failing, while the store itself is
//! well. It is counted and logged like a reconcile that failed, but is none: the next pass comes as it would have. What
//! fails for long is told in the condition Degraded and by an event.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, timeout};

use super::{ReconcileError, Site, publish, retry_after};
use crate::reason::Reason;

/// How long one may take: a leader that dies meanwhile is found out about that much later.
const LIMIT: Duration = Duration::from_secs(5);
/// How long one may fail before people are told.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chore {
    /// Labelling pods with their roles.
    Labels,
    /// Deleting an outdated pod.
    Replacement,
    /// Setting readiness gates.
    Gates,
    /// Telling pods of new certificates, and replacing these.
    Certificates,
    /// Asking for a larger volume.
    Volumes,
}

impl Chore {
    /// Those of a store that is at work.
    pub(super) const OF_NODES: [Self; 3] = [Self::Labels, Self::Replacement, Self::Gates];

    /// Whether it is tried again more and more slowly. For the others clients and roll wait.
    const fn can_wait(self) -> bool {
        matches!(self, Self::Certificates | Self::Volumes)
    }
}

#[derive(Debug)]
struct Setback {
    since: Instant,
    failures: u32,
    /// Not to be tried again before.
    again: Option<Instant>,
    /// Of the error, as metrics have it: while it is the same, the words for it are.
    label: &'static str,
    reason: Reason,
    message: String,
    /// Whether it needs somebody, however short it is.
    urgent: bool,
    told: bool,
}

impl Setback {
    fn is_to_be_told(&self) -> bool {
        self.urgent || self.since.elapsed() >= PATIENCE
    }
}

/// What fails, from one reconcile to the next. Losing it costs time and a repeated event.
#[derive(Debug, Default)]
pub(super) struct Setbacks(BTreeMap<Chore, Setback>);

impl Setbacks {
    /// Does it, unless it shall wait; what came of it, if it was done.
    pub(super) async fn attempt<T>(
        &mut self,
        site: &Site<'_>,
        chore: Chore,
        work: impl Future<Output = Result<T, ReconcileError>>,
    ) -> Option<T> {
        if self.0.get(&chore).is_some_and(|setback| setback.again.is_some_and(|again| Instant::now() < again)) {
            return None;
        }
        let outcome = timeout(LIMIT, work).await.unwrap_or(Err(ReconcileError::Stuck(LIMIT)));
        let (namespace, name) = (&site.valid.namespace, &site.valid.name);
        match outcome {
            Ok(done) => {
                self.0.remove(&chore);
                Some(done)
            }
            Err(error) if error.is_passing() => {
                site.context.metrics.put_off(error.label());
                tracing::info!(namespace, name, ?chore, %error, "put off");
                None
            }
            Err(error) => {
                site.context.metrics.failed(error.label());
                tracing::warn!(namespace, name, ?chore, %error, "not done, and the reconcile goes on");
                self.note(chore, &error);
                None
            }
        }
    }

    fn note(&mut self, chore: Chore, error: &ReconcileError) {
        let now = Instant::now();
        let new = || Setback {
            since: now,
            failures: 0,
            again: None,
            label: "",
            reason: Reason::KubernetesRefuses,
            message: String::new(),
            urgent: false,
            told: false,
        };
        let setback = self.0.entry(chore).or_insert_with(new);
        setback.failures = setback.failures.saturating_add(1);
        let pause = retry_after(setback.failures);
        setback.again = match error {
            _ if chore.can_wait() => Some(now + pause),
            // Passes shall be longer by it now and then, not each time.
            ReconcileError::Stuck(_) => Some(now + pause.min(LIMIT)),
            _ => None,
        };
        if setback.label != error.label() {
            setback.label = error.label();
            setback.urgent = error.for_people().is_some();
            setback.reason = error.for_people().unwrap_or(Reason::KubernetesRefuses);
            setback.message = error.to_string();
        }
    }

    /// A store that is not at work has none of these.
    pub(super) fn forget(&mut self, chores: &[Chore]) {
        self.0.retain(|chore, _| !chores.contains(chore));
    }

    /// Tells by events what has failed for long, each once; all that does, for a condition.
    pub(super) async fn tell(&mut self, site: &Site<'_>) -> Option<(Reason, String)> {
        let mut reason = None;
        let mut messages = Vec::new();
        for (chore, setback) in self.0.iter_mut().filter(|(_, setback)| setback.is_to_be_told()) {
            if !std::mem::replace(&mut setback.told, true) {
                publish(site.cluster, site.context, setback.reason, &format!("{chore:?}"), &setback.message).await;
            }
            reason.get_or_insert(setback.reason);
            messages.push(setback.message.as_str());
        }
        Some((reason?, messages.join("; ")))
    }

    /// In how long the first one that waits shall be tried again.
    pub(super) fn again_in(&self) -> Option<Duration> {
        let waits = self.0.values().filter_map(|setback| setback.again);
        waits.min().map(|again| again.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests;
