//! Taking a store out of the operator's hands for a while, by an annotation.
//!
//! While it is there nothing is written for that store: no object is applied, no pod labelled or replaced, no leader
//! elected, no setting pushed. The store runs on as it is; a leader that dies meanwhile is not replaced. The one
//! thing that is still written is a condition that says so, once. Pure.

use kube::ResourceExt as _;

use crate::crd::KvCluster;

/// With the value `paused`, the operator leaves the store alone. Any other value means nothing.
pub const ANNOTATION: &str = "quorumkv.io/reconcile";
/// The value.
pub const PAUSED: &str = "paused";

/// Whether the store is to be left alone.
#[must_use]
pub fn is_paused(cluster: &KvCluster) -> bool {
    cluster.annotations().get(ANNOTATION).is_some_and(|value| value == PAUSED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cluster;

    #[test]
    fn only_the_word_paused_pauses() {
        let mut cluster = cluster();
        assert!(!is_paused(&cluster));
        for (value, paused) in [("paused", true), ("enabled", false), ("", false)] {
            cluster.annotations_mut().insert(ANNOTATION.to_owned(), value.to_owned());
            assert_eq!(is_paused(&cluster), paused, "{value:?}");
        }
    }
}
