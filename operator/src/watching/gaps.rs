//! What of which namespace is not known, since the operator may not list it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::time::Instant;

/// Kinds of objects, by namespace, that a cache lacks: an object that is missing there may exist. Shared by the watches,
/// which keep it, and all who read their caches.
#[derive(Debug, Clone, Default)]
pub struct Gaps(Arc<Mutex<BTreeMap<String, Gap>>>);

/// What is not known of one namespace.
#[derive(Debug, Clone)]
pub struct Gap {
    namespace: String,
    /// The kinds, as rules of Roles name them, and in what words listing them was refused.
    kinds: BTreeMap<String, String>,
    since: Instant,
}

impl Gaps {
    /// What is not known of this namespace.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Option<Gap> {
        self.lock().get(namespace).cloned()
    }

    /// Objects of this kind may not be listed. Told once.
    pub(super) fn open(&self, namespace: &str, kind: &str, refusal: &impl fmt::Display) {
        let mut gaps = self.lock();
        let gap = gaps.entry(namespace.to_owned()).or_insert_with(|| Gap {
            namespace: namespace.to_owned(),
            kinds: BTreeMap::new(),
            since: Instant::now(),
        });
        if gap.kinds.insert(kind.to_owned(), refusal.to_string()).is_none() {
            tracing::warn!(
                namespace,
                kind,
                %refusal,
                "the operator may not list these, goes on without the namespace, and keeps trying"
            );
        }
    }

    /// They are known now.
    pub(super) fn close(&self, namespace: &str, kind: &str) {
        let mut gaps = self.lock();
        let Some(gap) = gaps.get_mut(namespace) else { return };
        if gap.kinds.remove(kind).is_some() {
            tracing::info!(namespace, kind, "these are listed now");
        }
        if gap.kinds.is_empty() {
            gaps.remove(namespace);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Gap>> {
        self.0.lock().expect("nobody panics while holding the gaps")
    }
}

impl Gap {
    /// Since when something of the namespace is not known.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// One, for tests of what is done about it.
    #[cfg(test)]
    pub(crate) fn open_since(gaps: &Gaps, namespace: &str, kind: &str, since: Instant) {
        gaps.open(namespace, kind, &"as scripted");
        gaps.lock().get_mut(namespace).expect("just opened").since = since;
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.kinds.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let refusal = self.kinds.values().next().map_or("", String::as_str);
        write!(f, "The operator may not list {kinds} in namespace {}: {refusal}", self.namespace)
    }
}
