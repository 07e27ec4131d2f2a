//! The applied state: every committed key, readable without asking the driver, and which request ids were seen.
//!
//! What an entry does is decided here, when it is applied, and from nothing but the state that the entries
//! before it left: replicas that applied the same log are equal.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use parking_lot::RwLock;
use quorumkv_api::Seq;
use quorumkv_protocol::{Change, Entry, Format, Operation, Write};
use tokio::sync::watch;

mod index;
pub mod requests;

use self::index::Index;
pub use self::index::Key;
use self::requests::{Known, Outcome, Requests};

/// A committed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// As the client sent it.
    pub value: Bytes,
    /// What it is.
    pub format: Format,
    /// Place of the write in the log.
    pub version: Seq,
}

/// What a write did when it was applied, where that is not simply what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deviation {
    /// Nothing: the same write was here before.
    Repeated {
        /// Place of the first in the log.
        version: Seq,
        /// What became of that one.
        outcome: Outcome,
    },
    /// Nothing: its condition did not hold.
    ConditionFailed {
        /// Version of the key's value, if it has one.
        current: Option<Seq>,
    },
    /// Nothing: its request id is another write's.
    IdTaken,
}

/// All keys at one moment. Cloning is O(1), and a clone never changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    index: Index,
    /// Request ids seen.
    pub requests: Requests,
    /// Last entry of the log that is in it.
    pub applied: Seq,
}

impl Snapshot {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Arc<Versioned>> {
        self.index.get(key)
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The keys after `last` (all, if `None`) in ascending order of their bytes.
    pub fn after<'a>(&'a self, last: Option<&[u8]>) -> impl Iterator<Item = (&'a Key, &'a Versioned)> + use<'a> {
        self.from(last.map_or(Bound::Unbounded, Bound::Excluded))
    }

    /// The keys from `start` on in ascending order of their bytes.
    pub fn from<'a>(&'a self, start: Bound<&[u8]>) -> impl Iterator<Item = (&'a Key, &'a Versioned)> + use<'a> {
        self.index.from(start)
    }

    /// Gives a key a value; for building a snapshot or applying an entry.
    ///
    /// Key and value are copied: what comes from the log is a slice of a network frame, and one long-lived
    /// key must not keep a whole frame in memory.
    pub fn put(&mut self, key: &[u8], format: Format, value: &[u8], version: Seq) {
        self.index.put(key, Versioned { value: Bytes::copy_from_slice(value), format, version });
    }

    /// Applies the next entry; nothing is returned when it did what it says.
    pub fn apply(&mut self, entry: &Entry) -> Option<Deviation> {
        self.applied = entry.seq;
        match &entry.operation {
            Operation::Put { key, value } => {
                self.put(key, Format::Json, value, entry.seq);
                None
            }
            Operation::Write(write) => self.write(write, entry.seq),
            Operation::Barrier | Operation::Settings(_) => None,
        }
    }

    fn write(&mut self, write: &Write, seq: Seq) -> Option<Deviation> {
        let Write { key, change, condition, request } = write;
        match request.as_ref().map_or(Known::No, |request| self.requests.look_up(request)) {
            Known::Same(version, outcome) => return Some(Deviation::Repeated { version, outcome }),
            Known::Other => return Some(Deviation::IdTaken),
            Known::No => {}
        }
        let current = self.index.get(key).map(|found| found.version);
        let failed = condition.is_some_and(|condition| !condition.holds(current));
        let outcome = if failed { Outcome::ConditionFailed { current } } else { Outcome::Done };
        if let Some(request) = request {
            self.requests.remember(seq, request, outcome);
        }
        if failed {
            return Some(Deviation::ConditionFailed { current });
        }
        match change {
            Change::Put { format, value } => self.put(key, *format, value, seq),
            Change::Delete => self.index.remove(key),
        }
        None
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
    pub fn get(&self, key: &[u8]) -> (Option<Arc<Versioned>>, Seq) {
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

    /// Applies committed entries, which follow each other, under one lock, so that no reader sees half of them;
    /// the entries that did not do what they say.
    pub fn apply<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> Vec<(Seq, Deviation)> {
        let mut deviations = Vec::new();
        let mut current = self.current.write();
        for entry in entries {
            if let Some(deviation) = current.apply(entry) {
                deviations.push((entry.seq, deviation));
            }
        }
        let applied = current.applied;
        drop(current);
        self.applied.send_replace(applied);
        deviations
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
mod tests;
