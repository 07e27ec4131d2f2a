//! A store's record in memory, replaced by compare-and-swap, with everything that it ever was.

use std::sync::{Mutex, MutexGuard};

use anyhow::ensure;
use quorumkv_api::{Epoch, NodeId};
use quorumkv_operator::record::{Record, RecordError, Versioned};

#[derive(Debug, Default)]
struct Kept {
    record: Record,
    past: Vec<Record>,
    wish: Option<NodeId>,
}

/// What the managers of one store share.
#[derive(Debug, Default)]
pub(crate) struct SharedRecord {
    kept: Mutex<Kept>,
}

impl SharedRecord {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nobody panics while holding the record")
    }

    /// The record as it is now.
    pub(crate) fn read(&self) -> Versioned {
        let kept = self.kept();
        Versioned { record: kept.record.clone(), version: kept.past.len().to_string() }
    }

    /// Replaces it if it is still what was read.
    pub(crate) fn replace(&self, read: &Versioned, new: Record) -> Result<Versioned, RecordError> {
        let mut kept = self.kept();
        if kept.past.len().to_string() != read.version {
            return Err(RecordError::Conflict);
        }
        let old = std::mem::replace(&mut kept.record, new.clone());
        kept.past.push(old);
        Ok(Versioned { record: new, version: kept.past.len().to_string() })
    }

    /// Who shall lead.
    pub(crate) fn wish(&self) -> Option<NodeId> {
        self.kept().wish.clone()
    }

    /// Asks for another leader.
    pub(crate) fn wish_for(&self, node: NodeId) {
        self.kept().wish = Some(node);
    }

    /// Takes the wish for this node away; whether it was there.
    pub(crate) fn withdraw(&self, wanted: &NodeId) -> bool {
        self.kept().wish.take_if(|wish| wish == wanted).is_some()
    }

    /// Epochs only rise, each has one leader at most, and nobody leads without being asked in an epoch of its own.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let kept = self.kept();
        let all: Vec<&Record> = kept.past.iter().chain([&kept.record]).collect();
        for pair in all.windows(2) {
            let (old, new) = (pair[0], pair[1]);
            ensure!(new.epoch >= old.epoch, "the record went from epoch {} to {}", old.epoch, new.epoch);
            let changed = new.leader.is_some() && old.leader.is_some() && new.leader != old.leader;
            ensure!(!changed, "leadership went from {:?} to {:?} without an election", old.leader, new.leader);
        }
        let mut leaders: Vec<(Epoch, &NodeId)> =
            all.iter().filter_map(|record| Some((record.epoch, record.leader.as_ref()?))).collect();
        leaders.sort();
        leaders.dedup();
        for pair in leaders.windows(2) {
            ensure!(pair[0].0 != pair[1].0, "epoch {} has two leaders: {} and {}", pair[0].0, pair[0].1, pair[1].1);
        }
        Ok(())
    }
}
