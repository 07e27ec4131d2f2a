//! The applied state: every committed key, readable without asking the driver.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use imbl::OrdMap;
use parking_lot::RwLock;
use quorumkv_api::Seq;
use tokio::sync::watch;

/// A committed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// JSON text as the client sent it.
    pub value: Bytes,
    /// Place of the write in the log.
    pub version: Seq,
}

/// All keys at one moment. Cloning is O(1), and a clone never changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    map: OrdMap<Bytes, Versioned>,
    /// Last entry of the log that is in it.
    pub applied: Seq,
}

impl Snapshot {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Versioned> {
        self.map.get(key)
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The keys after `last` (all, if `None`) in ascending order of their bytes.
    pub fn after<'a>(&'a self, last: Option<&Bytes>) -> impl Iterator<Item = (&'a Bytes, &'a Versioned)> + use<'a> {
        let start = last.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        self.map.range((start, Bound::Unbounded))
    }

    /// Gives a key a value; for building a snapshot or applying an entry.
    ///
    /// Key and value are copied: what comes from the log is a slice of a network frame, and one long-lived
    /// key must not keep a whole frame in memory.
    pub fn put(&mut self, key: &[u8], value: &[u8], version: Seq) {
        let versioned = Versioned { value: Bytes::copy_from_slice(value), version };
        if let Some(present) = self.map.get_mut(key) {
            *present = versioned;
        } else {
            self.map.insert(Bytes::copy_from_slice(key), versioned);
        }
    }
}

/// The shared handle. The driver writes, everybody reads.
#[derive(Debug, Clone)]
pub struct Store {
    current: Arc<RwLock<Snapshot>>,
    applied: Arc<watch::Sender<Seq>>,
}

impl Default for Store {
    fn default() -> Self {
        Self { current: Arc::default(), applied: Arc::new(watch::Sender::new(Seq::default())) }
    }
}

impl Store {
    /// The value of a key, and the place in the log up to which this answer is complete.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> (Option<Versioned>, Seq) {
        let current = self.current.read();
        (current.get(key).cloned(), current.applied)
    }

    /// Everything, at one moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.current.read().clone()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.current.read().len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.current.read().is_empty()
    }

    /// Last entry applied.
    #[must_use]
    pub fn applied(&self) -> Seq {
        *self.applied.borrow()
    }

    /// Applies committed writes under one lock, so that no reader sees half of them, and moves to `applied`.
    pub fn apply<'a>(&self, writes: impl Iterator<Item = (Seq, &'a [u8], &'a [u8])>, applied: Seq) {
        let mut current = self.current.write();
        for (seq, key, value) in writes {
            current.put(key, value, seq);
        }
        current.applied = applied;
        drop(current);
        self.applied.send_replace(applied);
    }

    /// Replaces everything.
    pub fn install(&self, snapshot: Snapshot) {
        let applied = snapshot.applied;
        *self.current.write() = snapshot;
        self.applied.send_replace(applied);
    }

    /// Waits until the entry at `seq` is applied.
    pub async fn reached(&self, seq: Seq) {
        let mut applied = self.applied.subscribe();
        applied.wait_for(|applied| *applied >= seq).await.expect("the sender lives in self");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write<'a>(seq: u64, key: &'a str, value: &'a str) -> (Seq, &'a [u8], &'a [u8]) {
        (Seq(seq), key.as_bytes(), value.as_bytes())
    }

    #[test]
    fn the_last_write_of_a_key_wins_and_carries_its_version() {
        let store = Store::default();
        store.apply([write(1, "a", "1"), write(2, "b", "2"), write(3, "a", "3")].into_iter(), Seq(4));
        let (found, applied) = store.get(b"a");
        assert_eq!(found, Some(Versioned { value: Bytes::from_static(b"3"), version: Seq(3) }));
        assert_eq!((applied, store.len()), (Seq(4), 2));
        assert_eq!(store.get(b"c").0, None);
    }

    #[test]
    fn a_snapshot_does_not_change_under_its_reader() {
        let store = Store::default();
        store.apply([write(1, "a", "1")].into_iter(), Seq(1));
        let before = store.snapshot();
        store.apply([write(2, "a", "2"), write(3, "b", "3")].into_iter(), Seq(3));
        assert_eq!((before.len(), before.applied), (1, Seq(1)));
        assert_eq!(before.get(b"a").expect("kept").version, Seq(1));
    }

    #[test]
    fn a_snapshot_can_be_walked_in_pieces() {
        let mut snapshot = Snapshot::default();
        for (seq, key) in (1..).zip(["c", "a", "b"]) {
            snapshot.put(key.as_bytes(), b"0", Seq(seq));
        }
        let first: Vec<_> = snapshot.after(None).take(2).map(|(key, _)| key.clone()).collect();
        assert_eq!(first, ["a", "b"]);
        let rest: Vec<_> = snapshot.after(first.last()).map(|(key, _)| key.clone()).collect();
        assert_eq!(rest, ["c"]);
    }

    #[tokio::test]
    async fn a_reader_can_wait_for_a_version() {
        let store = Store::default();
        let waiting = tokio::spawn({
            let store = store.clone();
            async move {
                store.reached(Seq(2)).await;
                store.applied()
            }
        });
        store.apply(std::iter::empty(), Seq(1));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "one is not two");
        store.apply(std::iter::empty(), Seq(2));
        assert_eq!(waiting.await.expect("no panic"), Seq(2));
    }
}
