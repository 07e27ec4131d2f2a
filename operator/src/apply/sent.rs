//! What was written to objects and is not in the caches yet.
//!
//! A reconcile may come before the watch has told of what the last one wrote. By the cache alone it would be written
//! again, several times where the API server is busy, of all times; and a pod that was just labelled as leader would
//! pass for a follower, and keep that label beside the next leader's.

use std::collections::HashMap;

use kube::{Resource, ResourceExt as _};

/// Values of one kind, by the uid of the object that they were written to, with the version that it had before. Losing
/// it costs a repeated write.
#[derive(Debug)]
pub struct Sent<V>(HashMap<String, (String, V)>);

impl<V> Default for Sent<V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<V: Copy> Sent<V> {
    /// What was written to an object that is here as it was before that.
    #[must_use]
    pub fn unseen(&self, object: &impl Resource) -> Option<V> {
        let (version, value) = self.0.get(object.meta().uid.as_ref()?)?;
        (object.meta().resource_version.as_ref() == Some(version)).then_some(*value)
    }

    /// It has just been written to, being as it is here.
    pub fn note(&mut self, object: &impl Resource, value: V) {
        if let (Some(uid), Some(version)) = (object.uid(), object.resource_version()) {
            self.0.insert(uid, (version, value));
        }
    }

    /// Forgets objects that are not there any more.
    pub fn keep<'a, K: Resource + 'a>(&mut self, there: impl Iterator<Item = &'a K>) {
        let there: Vec<&String> = there.filter_map(|object| object.meta().uid.as_ref()).collect();
        self.0.retain(|uid, _| there.contains(&uid));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, version: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": uid, "resourceVersion": version}})).expect("a pod")
    }

    #[test]
    fn what_was_written_holds_until_the_object_has_changed() {
        let mut sent = Sent::default();
        assert_eq!(sent.unseen(&pod("a", "1")), None);
        sent.note(&pod("a", "1"), 7);
        assert_eq!(sent.unseen(&pod("a", "1")), Some(7));
        assert_eq!(sent.unseen(&pod("a", "2")), None, "whoever changed it");
        assert_eq!(sent.unseen(&pod("b", "1")), None, "another pod of that name");
        sent.keep([&pod("b", "1")].into_iter());
        assert_eq!(sent.unseen(&pod("a", "1")), None, "forgotten");
    }
}
