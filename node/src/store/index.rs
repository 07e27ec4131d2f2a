//! The keys and their values: found by hash, walked in order.
//!
//! One ordered tree would do both, and did: but its search compares some twenty keys when there are a million, each
//! somewhere else in memory, and a read or write of such a store cost nearly twice that of a small one. A hash trie
//! touches a handful of places whatever their number (Bagwell, "Ideal Hash Trees", 2001); the order is a set beside
//! it, which only a key's first write and its deletion change. Both share the key, and slots hold pointers, because a
//! slot of the trie is empty more often than not.

use std::{ops::Bound, sync::Arc};

use imbl::{HashMap, OrdSet};

use super::Versioned;

/// A key, shared by the two sides.
pub type Key = Arc<[u8]>;

/// Keys with their values. Cloning is O(1), and a clone never changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Index {
    values: HashMap<Key, Arc<Versioned>>,
    order: OrdSet<Key>,
}

impl Index {
    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<Versioned>> {
        self.values.get(key)
    }

    /// Number of keys.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no key.
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Gives a key a value.
    pub(super) fn put(&mut self, key: &[u8], versioned: Versioned) {
        if let Some(present) = self.values.get_mut(key) {
            match Arc::get_mut(present) {
                Some(present) => *present = versioned,
                // A reader or a snapshot holds it.
                None => *present = Arc::new(versioned),
            }
        } else {
            let key: Key = key.into();
            self.order.insert(Arc::clone(&key));
            self.values.insert(key, Arc::new(versioned));
        }
    }

    /// Takes a key away, if it is there.
    pub(super) fn remove(&mut self, key: &[u8]) {
        if self.values.remove(key).is_some() {
            self.order.remove(key);
        }
    }

    /// The keys from `start` on in ascending order of their bytes.
    pub(super) fn from<'a>(&'a self, start: Bound<&[u8]>) -> impl Iterator<Item = (&'a Key, &'a Versioned)> + use<'a> {
        // Both sides hold the same keys: nothing is left out here.
        self.order
            .range::<_, [u8]>((start, Bound::Unbounded))
            .filter_map(|key| self.values.get(key).map(|value| (key, &**value)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;
    use quorumkv_api::Seq;
    use quorumkv_protocol::Format;

    use super::*;

    fn versioned(version: u64) -> Versioned {
        Versioned { value: Bytes::from(version.to_string()), format: Format::Raw, version: Seq(version) }
    }

    fn all(index: &Index) -> Vec<(Vec<u8>, Versioned)> {
        index.from(Bound::Unbounded).map(|(key, value)| (key.to_vec(), value.clone())).collect()
    }

    proptest! {
        #[test]
        fn it_is_an_ordered_map(changes in prop::collection::vec((prop::collection::vec(0_u8..4, 1..4), any::<bool>()), 0..200)) {
            let (mut index, mut expected) = (Index::default(), BTreeMap::new());
            let mut halfway = None;
            for (step, (key, put)) in changes.iter().enumerate() {
                if step == changes.len() / 2 {
                    halfway = Some((index.clone(), all(&index)));
                }
                if *put {
                    index.put(key, versioned(step as u64));
                    expected.insert(key.clone(), versioned(step as u64));
                } else {
                    index.remove(key);
                    expected.remove(key);
                }
                prop_assert_eq!(index.get(key).map(|value| (**value).clone()), expected.get(key).cloned());
                prop_assert_eq!((index.len(), index.is_empty()), (expected.len(), expected.is_empty()));
            }
            prop_assert_eq!(all(&index), expected.clone().into_iter().collect::<Vec<_>>());
            if let Some((key, _)) = changes.first() {
                let after: Vec<_> = index.from(Bound::Excluded(key)).map(|(key, _)| key.to_vec()).collect();
                let range = (Bound::Excluded(key.clone()), Bound::Unbounded);
                prop_assert_eq!(after, expected.range(range).map(|(key, _)| key.clone()).collect::<Vec<_>>());
            }
            if let Some((clone, then)) = halfway {
                prop_assert_eq!(all(&clone), then, "a clone never changes");
            }
        }
    }
}
